//! Replaces what differs from one run to the next: times, ids, names that a server makes up.

/// Fields of JSON whose numbers differ.
const NUMBERS: [&str; 6] = ["total", "errors", "pause_remaining", "ack_time", "rtt", "active"];
/// Fields of JSON whose texts differ.
const TEXTS: [&str; 5] = ["id", "leader", "pinned_client_id", "pinned_id", "Nats-Pin-Id"];

/// Masks a line.
pub fn mask(text: &str) -> String {
    let mut text = mask_times(text);
    for name in TEXTS {
        text = mask_field(&text, &format!("\"{name}\":\""), |byte| byte != b'"', "ID");
    }
    text = mask_field(&text, "Nats-Pin-Id: ", |byte| byte != b' ', "ID");
    // Counts of requests follow the level; those of lists are kept.
    if text.contains("\"level\":") {
        for name in ["total", "errors"] {
            text = mask_field(&text, &format!("\"{name}\":"), |byte| byte.is_ascii_digit(), "N");
        }
    }
    for name in &NUMBERS[2..] {
        text = mask_field(&text, &format!("\"{name}\":"), |byte| byte.is_ascii_digit(), "N");
    }
    mask_acks(&text)
}

fn mask_field(text: &str, before: &str, belongs: impl Fn(u8) -> bool, mask: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(before) {
        let start = at + before.len();
        let length = rest[start..].bytes().take_while(|&byte| belongs(byte)).count();
        result.push_str(&rest[..start]);
        result.push_str(if length == 0 { "" } else { mask });
        rest = &rest[start + length..];
    }
    result + rest
}

/// Masks times of these years; others are those of the conversation.
fn mask_times(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("20") {
        let shape = b"20dd-dd-ddTdd:dd:dd";
        let candidate = &rest.as_bytes()[at..];
        let fits = candidate.len() >= shape.len()
            && shape.iter().zip(candidate).all(|(&wanted, &byte)| match wanted {
                b'd' => byte.is_ascii_digit(),
                _ => byte == wanted,
            });
        let is_now = fits && matches!(candidate[2], b'2' | b'3');
        if !is_now {
            result.push_str(&rest[..at + 2]);
            rest = &rest[at + 2..];
            continue;
        }
        let tail = &candidate[shape.len()..];
        let fraction = tail.iter().take_while(|byte| b".0123456789".contains(byte)).count();
        let zone = usize::from(tail.get(fraction) == Some(&b'Z'));
        result.push_str(&rest[..at]);
        result.push_str("TIME");
        rest = &rest[at + shape.len() + fraction + zone..];
    }
    result + rest
}

/// Masks the time in subjects of acknowledgements.
fn mask_acks(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        if !word.starts_with("$JS.ACK.") {
            return word.to_owned();
        }
        let mut tokens: Vec<&str> = word.split('.').collect();
        if tokens.len() == 9 {
            tokens[7] = "TIME";
        }
        tokens.join(".")
    });
    words.collect::<Vec<_>>().join(" ")
}

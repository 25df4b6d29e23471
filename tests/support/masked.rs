//! What a server chooses by itself in a message that crosses from account to account, masked: the reply, times, the
//! sizes that follow from them.

/// Takes whole lines and messages out of `raw`, and appends them masked to `unread`. `reply` becomes the last reply of
/// the server's own among them.
pub fn take(raw: &mut Vec<u8>, unread: &mut Vec<u8>, reply: &mut Vec<u8>) {
    while let Some(size) = unit_size(raw) {
        let unit: Vec<u8> = raw.drain(..size).collect();
        unread.extend_from_slice(&masked(&unit, reply));
    }
}

/// The size of the line or message that `raw` begins with, if all of it is there.
fn unit_size(raw: &[u8]) -> Option<usize> {
    let line_size = raw.iter().position(|byte| *byte == b'\n')? + 1;
    let line = String::from_utf8_lossy(&raw[..line_size]);
    if !line.starts_with("MSG ") && !line.starts_with("HMSG ") {
        return Some(line_size);
    }
    let body: usize = line.trim_end().rsplit(' ').next()?.parse().ok()?;
    (raw.len() >= line_size + body + 2).then_some(line_size + body + 2)
}

fn masked(unit: &[u8], reply: &mut Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(unit);
    let Some((line, body)) = text.split_once("\r\n") else { return unit.to_vec() };
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    if words[0] != "MSG" && words[0] != "HMSG" {
        return unit.to_vec();
    }
    if let Some(word) = words.iter_mut().skip(3).find(|word| word.starts_with("_R_.")) {
        *reply = word.clone().into_bytes();
        *word = "_R_.ID".into();
    }
    if words[0] == "MSG" {
        return [words.join(" ").as_bytes(), b"\r\n", body.as_bytes()].concat();
    }
    let last = words.len() - 1;
    let (Ok(head), Ok(all)) = (words[last - 1].parse::<usize>(), words[last].parse::<usize>())
    else {
        return unit.to_vec();
    };
    let mut headers = body[..head].to_owned();
    for name in ["rtt", "id"] {
        mask(&mut headers, &format!("\"{name}\":"), |byte| byte.is_ascii_digit());
    }
    for name in ["start", "host", "server"] {
        mask(&mut headers, &format!("\"{name}\":\""), |byte| byte != b'"');
    }
    words[last] = (all - head + headers.len()).to_string();
    words[last - 1] = headers.len().to_string();
    [words.join(" "), "\r\n".into(), headers, body[head..].to_owned()].concat().into_bytes()
}

/// Makes what follows `name` an `N`, as far as `is_value` says.
fn mask(text: &mut String, name: &str, is_value: fn(u8) -> bool) {
    if let Some(start) = text.find(name).map(|at| at + name.len()) {
        let size = text.as_bytes()[start..].iter().take_while(|byte| is_value(**byte)).count();
        text.replace_range(start..start + size, "N");
    }
}

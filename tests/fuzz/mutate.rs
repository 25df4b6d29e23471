//! Inputs: well-formed pieces first, then damaged as by a hostile or broken peer.

use fastrand::Rng;

/// Pieces at the edges of some rule.
const PIECES: [&[u8]; 26] = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b"\xff",
    b"\xc3\x28",
    b".",
    "..".as_bytes(),
    b"*",
    b">",
    b"0",
    b"00",
    b"-1",
    b"999999999",
    b"1000000000",
    b"18446744073709551616",
    b"PUB ",
    b"HPUB ",
    b"SUB ",
    b"UNSUB ",
    b"CONNECT {}\r\n",
    b"-ERR ",
    b"+OK\r\n",
    b"\x0c",
];

const SUBJECTS: [&str; 12] =
    ["a", "a.b", "a.*", ">", "*", "a.>", "a..b", ".a", "a.", "$SYS.x", "_INBOX.1", "s\u{fc}d"];

pub fn choose<'a, T>(random: &mut Rng, from: &'a [T]) -> &'a T {
    &from[random.usize(..from.len())]
}

/// Damages `bytes` in up to three places.
pub fn mutate(random: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..random.usize(..4) {
        let at = random.usize(..=bytes.len());
        match random.u32(..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u32(..8),
            1 if at < bytes.len() => {
                let end = random.usize(at..=bytes.len().min(at + 8));
                bytes.drain(at..end);
            }
            2 => {
                let piece = choose(random, &PIECES);
                bytes.splice(at..at, piece.iter().copied());
            }
            3 => {
                let end = random.usize(at..=bytes.len().min(at + 20));
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => bytes.truncate(at),
            _ => {
                let byte = *choose(random, b" \t\r\n0a.{\"");
                let count = *choose(random, &[1, 2, 63, 64, 65, 130]);
                bytes.splice(at..at, std::iter::repeat_n(byte, count));
            }
        }
    }
}

fn blanks(random: &mut Rng) -> &'static str {
    const BLANKS: [&str; 6] = [" ", " ", " ", "  ", "\t", " \t "];
    BLANKS[random.usize(..BLANKS.len())]
}

/// Appends one well-formed command.
pub fn command(random: &mut Rng, out: &mut Vec<u8>) {
    let end = *choose(random, &["\r\n", "\r\n", "\r\n", "\n"]);
    let subject = *choose(random, &SUBJECTS);
    let blank = blanks(random);
    let text = match random.u32(..11) {
        0..3 => {
            let size = random.usize(..40);
            let reply = if random.bool() { format!("{blank}_R.1") } else { String::new() };
            let zeros = "0".repeat(random.usize(..3));
            let payload: String =
                (0..size).map(|_| *choose(random, &['x', '\r', '\n', ' '])).collect();
            format!("PUB{blank}{subject}{reply} {zeros}{size}{end}{payload}\r\n")
        }
        3 => {
            let headers = "NATS/1.0\r\nA: b\r\n\r\n";
            let size = headers.len() + 2;
            format!("hpub {subject}{blank}{} {size}{end}{headers}hi\r\n", headers.len())
        }
        4 => format!("SUB{blank}{subject} {}{end}", random.u32(..20)),
        5 => format!("sub {subject}{blank}crew {}{end}", random.u32(..20)),
        6 => format!("UNSUB {}{blank}{}{end}", random.u32(..20), random.u32(..4)),
        7 => format!("PING{}{end}", choose(random, &["", "", "anything"])),
        8 => format!("PONG{end}"),
        9 => format!("+OK{end}"),
        _ => {
            out.extend_from_slice(b"CONNECT ");
            json(random, out);
            end.to_string()
        }
    };
    out.extend_from_slice(text.as_bytes());
}

/// Returns a stream of commands, usually damaged.
pub fn stream(random: &mut Rng) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..random.usize(..6) {
        command(random, &mut out);
    }
    mutate(random, &mut out);
    out
}

/// Appends a CONNECT's JSON, usually damaged.
pub fn json(random: &mut Rng, out: &mut Vec<u8>) {
    const KEYS: [&str; 14] = [
        "verbose",
        "PEDANTIC",
        "echo",
        "headers",
        "no_responders",
        "protocol",
        "user",
        "pass",
        "auth_token",
        "nkey",
        "sig",
        "name",
        "account",
        "unknown",
    ];
    const VALUES: [&str; 14] = [
        "true",
        "false",
        "null",
        "0",
        "1",
        "-1",
        "1e9",
        "99999999999999999999",
        "\"\"",
        "\"bob\"",
        "\"\\u0000\\r\\n\"",
        "[[[{}]]]",
        "{\"a\":1}",
        "\"\\ud800\"",
    ];
    let mut text = vec![b'{'];
    for index in 0..random.usize(..6) {
        if index > 0 {
            text.push(b',');
        }
        let (key, value) = (choose(random, &KEYS), choose(random, &VALUES));
        text.extend_from_slice(format!("\"{key}\":{value}").as_bytes());
    }
    text.push(b'}');
    if random.u32(..50) == 0 {
        let depth = random.usize(..2000);
        text = [b"[".repeat(depth), text].concat();
    }
    if random.bool() {
        mutate(random, &mut text);
    }
    out.extend_from_slice(&text);
}

/// Returns a command line, often with flags that exist.
pub fn arguments(random: &mut Rng) -> Vec<Vec<u8>> {
    const FLAGS: [&str; 40] = [
        "-p",
        "--port",
        "-a",
        "--addr",
        "-n",
        "-c",
        "--config",
        "-t",
        "-sl",
        "--signal",
        "-D",
        "-V",
        "-DV",
        "-VV",
        "-l",
        "-T",
        "-s",
        "--user",
        "--pass",
        "--auth",
        "-m",
        "-ms",
        "--shards",
        "--cores",
        "--no-pin",
        "--busy-poll",
        "--io-driver",
        "--unix",
        "--max_payload",
        "--js",
        "--cluster",
        "--tls",
        "--tlscert",
        "--tlskey",
        "--allow-unsupported",
        "-P",
        "--ports_file_dir",
        "--help_tls",
        "--",
        "--lame_duck_duration",
    ];
    const VALUES: [&str; 24] = [
        "0",
        "-1",
        "1",
        "4222",
        "65535",
        "65536",
        "0x10",
        "1_000",
        "1e3",
        "10s",
        "-5ms",
        "1h1m",
        "true",
        "no",
        "2-5,8",
        "5-2",
        "99999999999999999999",
        "",
        "=",
        "file.conf",
        "127.0.0.1:0",
        "[::1]:4222",
        "stop=123",
        "auto",
    ];
    let mut all = Vec::new();
    for _ in 0..random.usize(..6) {
        let mut argument = match random.u32(..3) {
            0 => choose(random, &VALUES).as_bytes().to_vec(),
            1 => choose(random, &FLAGS).as_bytes().to_vec(),
            _ => format!("{}={}", choose(random, &FLAGS), choose(random, &VALUES)).into_bytes(),
        };
        if random.u32(..4) == 0 {
            mutate(random, &mut argument);
        }
        all.push(argument);
    }
    all
}

/// Returns a configuration file, usually damaged.
pub fn configuration(random: &mut Rng) -> Vec<u8> {
    const LINES: [&str; 12] = [
        "port: 4222\n",
        "listen: \"127.0.0.1:0\"\n",
        "max_payload: 1MB\n",
        "authorization { user: a, password: b }\n",
        "accounts { A { users [ { user: u, password: p } ] } }\n",
        "debug = true\n",
        "include file.conf\n",
        "x = $HOME\n",
        "ping_interval: \"2m\"\n",
        "# words\n",
        "midge { shards: 2 }\n",
        "write_deadline: \"10s\"\n",
    ];
    let lines = random.usize(..6);
    let mut text: Vec<u8> =
        (0..lines).flat_map(|_| choose(random, &LINES).as_bytes().to_vec()).collect();
    if random.bool() {
        mutate(random, &mut text);
    }
    text
}

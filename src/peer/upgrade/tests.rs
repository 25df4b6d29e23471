//! Requests for an upgrade, whole: who is let in, with what, and who is not.

use super::*;
use crate::protocol::http::HeadReader;

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

fn server(change: impl FnOnce(&mut WebSocketOptions)) -> WebSocketServer {
    let mut options = WebSocketOptions { no_tls: true, ..WebSocketOptions::default() };
    change(&mut options);
    WebSocketServer::new(&options, None, 9222).expect("good options")
}

/// The head of a good request, with these lines in place of those of the same names.
fn request(first: &str, lines: &[&str]) -> String {
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let usual = [
        "Host: a:9222",
        "Upgrade: websocket",
        "Connection: Upgrade",
        KEY,
        "Sec-WebSocket-Version: 13",
    ];
    let kept = usual.iter().filter(|line| !lines.iter().any(|own| name(own) == name(line)));
    // A line without a value leaves the header out.
    let own = lines.iter().filter(|line| !line.ends_with(':'));
    let all: Vec<&str> = kept.chain(own).copied().collect();
    format!("{first}\r\n{}\r\n\r\n", all.join("\r\n"))
}

fn head(text: &str) -> Head {
    let mut reader = HeadReader::default();
    reader.push(text.as_bytes());
    reader.next_head(HEAD_LIMITS).expect("good HTTP").expect("a whole head")
}

fn judged(server: &WebSocketServer, lines: &[&str]) -> Result<(Upgrade, Introduction), Refused> {
    server.judge(&head(&request("GET / HTTP/1.1", lines)), false)
}

fn answer(server: &WebSocketServer, lines: &[&str]) -> String {
    let (upgrade, _) = judged(server, lines).unwrap_or_else(|refused| panic!("{refused:?}"));
    String::from_utf8(upgrade.answer).expect("text")
}

#[test]
fn the_answer_has_the_key_and_what_was_agreed_on() {
    let plain = answer(&server(|_| {}), &["Sec-WebSocket-Extensions: permessage-deflate"]);
    assert_eq!(
        plain,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
    let all = server(|options| {
        options.compression = true;
        options.headers = vec![("X-A".into(), "b".into())];
    });
    let lines = [
        "Sec-WebSocket-Extensions: x, permessage-deflate; client_max_window_bits",
        "Nats-No-Masking: true",
    ];
    let end = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
               client_no_context_takeover\r\nNats-No-Masking: true\r\nX-A: b\r\n\r\n";
    assert!(answer(&all, &lines).ends_with(end));
    let (upgrade, _) = judged(&all, &lines).expect("it is good");
    assert!(upgrade.settings.deflates && !upgrade.settings.needs_mask);
}

#[test]
fn requests_are_refused_in_nats_servers_order_and_words() {
    let server = server(|_| {});
    for (first, lines, status, reason) in [
        ("GET /x/mqtt HTTP/1.1", &[][..], 404, "mqtt websocket endpoint not enabled"),
        ("POST / HTTP/1.1", &["Upgrade:"], 405, "request method must be GET"),
        ("GET / HTTP/1.1", &["Host:"], 400, "'Host' missing in request"),
        ("GET / HTTP/1.0", &["Host:"], 400, "'Host' missing in request"),
        ("GET / HTTP/1.1", &["Upgrade: h2c"], 400, "invalid value for header 'Upgrade'"),
        ("GET / HTTP/1.1", &["Connection: close"], 400, "invalid value for header 'Connection'"),
        ("GET / HTTP/1.1", &["Sec-WebSocket-Key:"], 400, "key missing"),
        ("GET / HTTP/1.1", &["Sec-WebSocket-Key: eA=="], 400, "invalid websocket key"),
        ("GET / HTTP/1.1", &["Sec-WebSocket-Version: 12"], 400, "invalid version"),
        (
            "GET http://a/leafnode?x HTTP/1.1",
            &[],
            404,
            "Not configured to accept leaf node connections",
        ),
    ] {
        let refused = server.judge(&head(&request(first, lines)), false).err();
        let refused = refused.unwrap_or_else(|| panic!("{reason}"));
        assert_eq!((refused.status, refused.reason.as_str()), (status, reason));
        let answer = String::from_utf8(refused.answer()).expect("text");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("Sec-Websocket-Version: 13\r\n"), "{answer}");
        assert!(answer.contains("Connection: close\r\n"), "{answer}");
    }
    let early = server.judge(&head(&request("GET / HTTP/1.1", &[])), true).err();
    let reason = "client sent data before handshake is complete";
    assert_eq!(early.expect("it is early").reason, reason);
}

#[test]
fn a_page_comes_from_where_it_may() {
    let allowed = |server: &WebSocketServer, lines: &[&str]| match judged(server, lines) {
        Ok(_) => "yes".to_owned(),
        Err(refused) => {
            assert_eq!(refused.status, 403);
            refused.reason.replace("origin not allowed: ", "")
        }
    };
    let same = server(|options| options.same_origin = true);
    assert_eq!(allowed(&same, &[]), "yes");
    assert_eq!(allowed(&same, &["Origin: http://A:9222"]), "yes");
    for other in ["http://b:9222", "http://a", "https://a:9222", "http://a:9222.b"] {
        assert_eq!(allowed(&same, &[&format!("Origin: {other}")]), "not same origin");
    }
    let null = "parse \"null\": invalid URI for request";
    assert_eq!(allowed(&same, &["Origin: null"]), null);
    assert_eq!(allowed(&same, &["Sec-WebSocket-Origin: http://b"]), "not same origin");
    assert_eq!(allowed(&same, &["Host: a", "Origin: http://a:80"]), "yes");
    let list = server(|options| {
        options.allowed_origins = vec!["https://x.example".into(), "http://y:81".into()];
    });
    assert_eq!(allowed(&list, &[]), "yes");
    for good in ["https://X.example", "https://x.example:443", "http://y:81"] {
        assert_eq!(allowed(&list, &[&format!("Origin: {good}")]), "yes", "{good}");
    }
    for bad in ["http://x.example", "https://x.example:444", "http://y", "https://a.x.example"] {
        assert_eq!(allowed(&list, &[&format!("Origin: {bad}")]), "not in the allowed list");
    }
    let none = server(|_| {});
    assert_eq!(allowed(&none, &["Origin: null"]), "yes");
}

#[test]
fn cookies_and_the_proxys_word_are_taken_as_by_nats_server() {
    let server = server(|options| {
        options.user_cookie = Some("u".into());
        options.pass_cookie = Some("p".into());
        options.token_cookie = Some("t".into());
    });
    let (_, told) = judged(
        &server,
        &[
            "Cookie: x=1; u=me; p=\"secret\"",
            "Cookie: t=a\"b; U=no; u=you",
            "X-Forwarded-For: 9.8.7.6",
        ],
    )
    .expect("it is good");
    let Cookies { jwt, user, pass, token } = &told.cookies;
    assert_eq!([jwt, user, pass, token].map(String::as_str), ["", "you", "secret", ""]);
    assert_eq!(told.forwarded_for.as_deref(), Some("9.8.7.6"));
    for text in ["9.8.7.6, 1.2.3.4", "9.8.7.6:5", "me", "[::1]"] {
        let (_, told) =
            judged(&server, &[&format!("X-Forwarded-For: {text}")]).expect("it is good");
        assert_eq!(told.forwarded_for, None, "{text}");
    }
}

#[test]
fn browsers_get_short_frames_and_safari_whole_deflated_ones() {
    let server = server(|options| options.compression = true);
    let settings = |agent: &str| {
        let agent = format!("User-Agent: {agent}");
        judged(&server, &[&agent]).expect("it is good").0.settings
    };
    let chrome = settings("Mozilla/5.0 (X11) AppleWebKit/537.36 Chrome/120.0 Safari/537.36");
    assert!(chrome.frame_bytes_max == Some(4096) && chrome.splits_deflated);
    let safari =
        settings("Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 Version/17.0 Safari/605.1.15");
    assert!(safari.frame_bytes_max == Some(4096) && !safari.splits_deflated);
    assert_eq!(settings("nats.go").frame_bytes_max, None);
}

//! Requests in one piece, in several, one after another, and malformed.

use super::*;

fn all(reader: &mut RequestReader) -> Result<Vec<Request>, Refused> {
    let mut requests = Vec::new();
    while let Some(request) = reader.next_request()? {
        requests.push(request);
    }
    Ok(requests)
}

fn read(bytes: &[u8]) -> Result<Vec<Request>, Refused> {
    let mut reader = RequestReader::default();
    reader.push(bytes);
    all(&mut reader)
}

#[test]
fn pipelined_requests_come_out_in_order_wherever_they_are_cut() {
    let bytes = b"GET /varz HTTP/1.1\r\nHost: a\r\n\r\nHEAD /connz?limit=5 HTTP/1.1\r\nhost: a\r\n\
                  Content-Length: 4\r\n\r\nbodyGET / HTTP/1.0\r\n\r\n";
    let whole = read(bytes).unwrap();
    let paths: Vec<&str> = whole.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(paths, ["/varz", "/connz", "/"]);
    assert!(whole[1].head_only);
    assert_eq!(whole[1].query.get("limit"), "5");
    assert!(whole[1].keep_alive);
    assert!(!whole[2].keep_alive);
    for cut in 0..=bytes.len() {
        let mut reader = RequestReader::default();
        reader.push(&bytes[..cut]);
        let mut requests = all(&mut reader).unwrap();
        reader.push(&bytes[cut..]);
        requests.extend(all(&mut reader).unwrap());
        assert_eq!(requests, whole, "cut at {cut}");
        assert!(!reader.is_half_way());
    }
}

#[test]
fn a_head_may_be_exactly_as_large_as_its_bound() {
    let with_size = |size: usize| {
        let mut head = b"GET /varz HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
        head.resize(size - 4, b'x');
        head.extend_from_slice(b"\r\n\r\n");
        assert_eq!(head.len(), size);
        head
    };
    for size in [HTTP_HEAD_BYTES_MAX - 1, HTTP_HEAD_BYTES_MAX] {
        assert_eq!(read(&with_size(size)).map(|all| all.len()), Ok(1));
    }
    assert_eq!(read(&with_size(HTTP_HEAD_BYTES_MAX + 1)), Err(Refused::HeadTooLarge));
    // A head without an end is refused as soon as the bound is reached.
    let endless = &with_size(HTTP_HEAD_BYTES_MAX + 1)[..HTTP_HEAD_BYTES_MAX];
    assert_eq!(read(endless), Err(Refused::HeadTooLarge));
    let headers = |count: usize| {
        let lines: String = (1..count).map(|index| format!("a{index}: b\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
    };
    assert!(read(&headers(HTTP_HEADERS_MAX)).is_ok());
    assert_eq!(read(&headers(HTTP_HEADERS_MAX + 1)), Err(Refused::HeadTooLarge));
}

#[test]
fn requests_that_are_not_understood_are_refused() {
    let cases: [(&[u8], Refused); 9] = [
        (b"POST /varz HTTP/1.1\r\nHost: a\r\n\r\n", Refused::Method),
        (b"GET /varz HTTP/1.1\r\n\r\n", Refused::MissingHost),
        (b"GET /varz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refused::Malformed),
        (b"GET varz HTTP/1.1\r\nHost: a\r\n\r\n", Refused::Malformed),
        (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", Refused::Malformed),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Refused::Malformed),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\n", Refused::Malformed),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n", Refused::BodyTooLarge),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            Refused::TransferEncoding,
        ),
    ];
    for (bytes, refused) in cases {
        assert_eq!(read(bytes), Err(refused), "{}", bytes.escape_ascii());
        let response = refused.response();
        assert!(response.status >= 400);
        assert!(response.encode(SystemTime::UNIX_EPOCH, false, false).starts_with(b"HTTP/1.1 "));
    }
}

#[test]
fn a_request_target_may_be_a_whole_url() {
    let requests = read(b"GET http://a:8222/connz?cid=7 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(requests[0].path, "/connz");
    assert_eq!(requests[0].query.get("cid"), "7");
}

#[test]
fn an_answer_to_head_has_the_length_but_no_body() {
    let response = Response::json(200, b"{}".to_vec());
    let bytes = response.encode(SystemTime::UNIX_EPOCH, true, true);
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("Content-Length: 2\r\n"));
    assert!(text.contains("Access-Control-Allow-Origin: *\r\n"));
    assert!(text.ends_with("\r\n\r\n"));
}

#[test]
fn an_answer_names_what_is_missing_from_it() {
    let head = |response: &Response| {
        let bytes = response.encode(SystemTime::UNIX_EPOCH, true, true);
        String::from_utf8(bytes).unwrap()
    };
    let whole = Response::json(200, b"{}".to_vec());
    assert!(!head(&whole).contains("X-Midge-"));
    let part = Response { cut: true, late_shards: vec![1, 3], ..whole };
    assert!(head(&part).contains("\r\nX-Midge-Cut: true\r\nX-Midge-Late-Shards: 1,3\r\n"));
}

/// 20,000 inputs made of pieces of requests, cut and damaged at random: nothing panics, nothing is
/// held beyond the bounds, and every request that comes out has a path.
#[test]
fn no_input_breaks_the_reader() {
    const WHOLE: &[u8] = b"GET /connz?limit=5 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    const PIECES: [&[u8]; 18] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"/varz",
        b"/connz?limit=",
        b"?subs=detail&",
        b"%41",
        b"%",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"Host: a\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close, keep-alive\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\xff\x00\x7f",
    ];
    let seed = 0x6d69_6467_6521;
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut understood, mut refused) = (0u32, 0u32);
    for _ in 0..20_000 {
        let mut reader = RequestReader::default();
        for _ in 0..random.usize(1..40) {
            let mut piece = match random.u8(..) {
                0..160 => WHOLE.to_vec(),
                _ => random.choice(PIECES).unwrap().to_vec(),
            };
            if random.u8(..) < 16 {
                let at = random.usize(..piece.len());
                piece[at] = random.u8(..);
            }
            if random.u8(..) < 4 {
                piece.resize(random.usize(..10_000), b'a');
            }
            reader.push(&piece);
            match all(&mut reader) {
                Ok(requests) => {
                    understood += requests.len() as u32;
                    assert!(requests.iter().all(|request| request.path.starts_with('/')));
                    assert!(reader.held() < HTTP_HEAD_BYTES_MAX, "seed {seed}");
                }
                Err(reason) => {
                    refused += 1;
                    assert!(reason.response().status >= 400);
                    break;
                }
            }
        }
    }
    assert!(understood > 100 && refused > 1_000, "{understood} {refused}");
}

//! Every argument of every endpoint with 0, the largest, the smallest, what is beyond, and what is
//! not a number. A server that adds an offset to a limit unchecked crashes on one of these.

use std::path::Path;

use super::{MIDGE, Monitored, get, load};

/// A number, whether a signed 64-bit integer holds it, and whether an unsigned one does.
const NUMBERS: [(&str, bool, bool); 17] = [
    ("0", true, true),
    ("1", true, true),
    ("-1", true, false),
    ("9223372036854775806", true, true),
    ("9223372036854775807", true, true),
    ("9223372036854775808", false, true),
    ("-9223372036854775808", true, false),
    ("-9223372036854775809", false, false),
    ("18446744073709551614", false, true),
    ("18446744073709551615", false, true),
    ("18446744073709551616", false, false),
    ("999999999999999999999999999999999999999", false, false),
    ("1.5", false, false),
    ("0x10", false, false),
    ("1e3", false, false),
    ("%201", false, false),
    ("nan", false, false),
];

const INTEGERS: [(&str, &str); 6] = [
    ("/connz", "limit"),
    ("/connz", "offset"),
    ("/subsz?subs=1", "limit"),
    ("/subsz?subs=1", "offset"),
    ("/jsz", "limit"),
    ("/jsz", "offset"),
];

const UNSIGNED: [(&str, &str); 1] = [("/connz", "cid")];

const BOOLEANS: [(&str, &str); 20] = [
    ("/connz", "auth"),
    ("/connz", "subs"),
    ("/subsz", "subs"),
    ("/routez", "subs"),
    ("/leafz", "subs"),
    ("/gatewayz", "subs"),
    ("/gatewayz", "accs"),
    ("/accstatz", "unused"),
    ("/healthz", "js-enabled"),
    ("/healthz", "js-enabled-only"),
    ("/healthz", "js-server-only"),
    ("/healthz", "js-meta-only"),
    ("/healthz", "leaf-remotes-connected"),
    ("/healthz", "details"),
    ("/jsz", "accounts"),
    ("/jsz", "streams"),
    ("/jsz", "consumers"),
    ("/jsz", "config"),
    ("/jsz", "raft"),
    ("/ipqueuesz", "all"),
];

fn with(path: &str, argument: &str, value: &str) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{path}{joint}{argument}={value}")
}

fn check(monitored: &Monitored) {
    let expect = |path: String, accepted: bool| {
        let answer = get(monitored.http, &path);
        assert_eq!(answer.status, if accepted { 200 } else { 400 }, "{path}: {}", answer.body);
        if !accepted {
            assert!(answer.body.starts_with("Error decoding "), "{path}: {}", answer.body);
        }
        assert!(answer.body.len() < 100_000, "{path}: {} bytes", answer.body.len());
    };
    for (value, is_int, is_unsigned) in NUMBERS {
        for (path, argument) in INTEGERS {
            expect(with(path, argument, value), is_int);
        }
        for (path, argument) in UNSIGNED {
            expect(with(path, argument, value), is_unsigned);
        }
        for (path, argument) in BOOLEANS {
            expect(with(path, argument, value), value == "0" || value == "1");
        }
    }
    // Sums that do not fit.
    let ints = || NUMBERS.into_iter().filter(|number| number.1).map(|number| number.0);
    for offset in ints() {
        for limit in ints() {
            for path in ["/connz?state=all", "/subsz?subs=1"] {
                expect(with(&with(path, "offset", offset), "limit", limit), true);
            }
        }
    }
}

#[test]
fn no_number_is_too_large_for_any_argument() {
    let monitored = Monitored::start("");
    let load = load(&monitored);
    check(&monitored);
    // The list contains what is left after the offset, whatever is added to it.
    let listed = |path: &str| monitored.json(path)["connections"].as_array().map(Vec::len);
    assert_eq!(listed("/connz?offset=1&limit=9223372036854775807"), Some(2));
    assert_eq!(listed("/connz?offset=9223372036854775807&limit=9223372036854775807"), Some(0));
    assert_eq!(listed("/connz?offset=-5&limit=-9223372036854775808"), Some(3));
    drop(load);
    assert_eq!(monitored.get("/healthz").status, 200);
}

/// The table above applies to the original too: checked if one is available.
#[test]
fn the_original_takes_and_refuses_the_same_numbers() {
    let Some(original) = std::env::var_os("NATS_SERVER") else {
        println!("NATS_SERVER names no nats-server");
        return;
    };
    assert_ne!(Path::new(&original), Path::new(MIDGE));
    check(&Monitored::start_program(Path::new(&original), &[], ""));
}

//! Each expectation was also checked with nats-server's own parser.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;

use super::*;
use crate::config::load;
use crate::config::options::Options;

/// Files and an environment, held in memory.
#[derive(Default)]
struct World {
    files: HashMap<PathBuf, &'static str>,
    variables: HashMap<&'static str, &'static str>,
}

impl Surroundings for World {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let text = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(text.as_bytes().to_vec())
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).map(OsString::from)
    }
}

/// Parses text that is not from a file.
fn parse_text(text: &[u8], surroundings: &dyn Surroundings) -> Result<Map, String> {
    Parser::new(text, Path::new(""), surroundings, &Read::default(), 0).parse()
}

fn json(text: &str) -> Result<String, String> {
    json_in(text, &World::default())
}

fn json_in(text: &str, world: &World) -> Result<String, String> {
    let map = parse_text(text.as_bytes(), world)?;
    let line = String::from_utf8(map.to_json()).expect("JSON is UTF-8");
    Ok(line.trim_end().to_string())
}

#[track_caller]
fn reads(text: &str, expected: &str) {
    assert_eq!(json(text).as_deref(), Ok(expected), "{text:?}");
}

#[track_caller]
fn fails(text: &str, expected: &str) {
    assert_eq!(json(text), Err(expected.to_string()), "{text:?}");
}

#[test]
fn keys_and_values_are_joined_in_many_ways() {
    for text in [
        "a=1",
        "a: 1",
        "a 1",
        "a = 1",
        "a\n1",
        "a:1;",
        "a = 1,",
        "\ta :\t1\r\n",
        "\"a\":1",
        "'a' 1",
    ] {
        reads(text, r#"{"a":1}"#);
    }
    reads("a: 1\nb: 2", r#"{"a":1,"b":2}"#);
    reads("a: 1; b: 2", r#"{"a":1,"b":2}"#);
    reads("a: 1, b: 2", r#"{"a":1,"b":2}"#);
    reads("a: 1\na: 2", r#"{"a":2}"#);
    reads("a\\b: 1", r#"{"a\\b":1}"#);
    reads("'a b': 1", r#"{"a b":1}"#);
}

#[test]
fn a_file_may_be_wrapped_in_braces() {
    reads("{\"a\": 1, \"b\": [true, \"x\"]}", r#"{"a":1,"b":[true,"x"]}"#);
    reads("{ a: 1 }\nb: 2", r#"{"a":1,"b":2}"#);
    reads("{ { a: 1 } }", r#"{"a":1}"#);
    reads("a: 1 }", r#"{"a":1}"#);
    reads("{}", "{}");
}

#[test]
fn comments_begin_only_where_a_key_or_value_may() {
    reads("# x\na: 1 # y\n// z\nb: 2 // w", r#"{"a":1,"b":2}"#);
    reads("a: b#c", r#"{"a":"b#c"}"#);
    reads("a: b//c", r#"{"a":"b//c"}"#);
    reads("a: 127.0.0.1 // c", r#"{"a":"127.0.0.1"}"#);
    reads("a [ # x\n 1\n // y\n 2\n]", r#"{"a":[1,2]}"#);
    reads("a { # x\n b: 1 // y\n}", r#"{"a":{"b":1}}"#);
    fails("/* a */", "Parse error on line 1: 'Unexpected EOF.'");
}

#[test]
fn numbers_with_units_count_by_thousands_or_by_1024() {
    let cases = [
        ("1k", 1000),
        ("1K", 1000),
        ("1kb", 1024),
        ("1Ki", 1024),
        ("1KiB", 1024),
        ("2m", 2_000_000),
        ("2MB", 2 << 20),
        ("1g", 1_000_000_000),
        ("1GB", 1 << 30),
        ("1t", 1_000_000_000_000),
        ("1TB", 1 << 40),
        ("1p", 1_000_000_000_000_000),
        ("1PB", 1 << 50),
        ("1e", 1_000_000_000_000_000_000),
        ("1EB", 1 << 60),
        ("-5k", -5000),
        ("9223372036854775807", i64::MAX),
        ("-22", -22),
    ];
    for (text, number) in cases {
        reads(&format!("a: {text}"), &format!("{{\"a\":{number}}}"));
    }
    fails("a: 9223372036854775808", "integer '9223372036854775808' is out of the range");
}

#[test]
fn words_that_begin_with_digits_are_text_unless_they_look_like_numbers() {
    reads("a: 3secret", r#"{"a":"3secret"}"#);
    reads("a: 3s", r#"{"a":"3s"}"#);
    reads("a: 500ms", r#"{"a":500}"#.replace("500", "\"500ms\"").as_str());
    reads("a: 127.0.0.1:4222", r#"{"a":"127.0.0.1:4222"}"#);
    reads("a: 1.5", r#"{"a":1.5}"#);
    reads("a: -1.25", r#"{"a":-1.25}"#);
    reads("a: 2m", r#"{"a":2000000}"#);
    reads("a: 1kx", r#"{"a":"1kx"}"#);
    for word in ["2m30s", "12k3", "5e7bcd-abc10", "0K1abc", "1e5", "12kb3", "-12k3"] {
        reads(&format!("a: {word}"), &format!("{{\"a\":\"{word}\"}}"));
        reads(&format!("a: [{word}, b]"), &format!("{{\"a\":[\"{word}\",\"b\"]}}"));
    }
    fails(
        "a: -5s",
        "Parse error on line 1: 'Expected a top-level value to end with a new line, comment or EOF, but got 's' instead.'",
    );
    fails("a: .5", "Parse error on line 1: 'Floats must start with a digit'");
    fails(
        "a: 5.",
        "Parse error on line 1: 'Floats must have a digit after the '.', but got '\0' instead.'",
    );
    fails("a: -x", "Parse error on line 1: 'Expected a digit but got 'x'.'");
}

#[test]
fn a_malformed_unit_loses_its_key_and_shifts_the_next_map() {
    reads("a: 1kbb\nb: 2", r#"{"b":2}"#);
    reads("x { a: 1kbb }", r#"{"a":{}}"#);
    reads("a: [1kbb , 2 ]", r#"{"a":[2]}"#);
}

#[test]
fn a_closing_bracket_sticks_to_a_number() {
    reads("a: [1 ]", r#"{"a":[1]}"#);
    fails(
        "a: [1]",
        "Parse error on line 1: 'Expected an array value terminator \",\" or an array terminator \"]\", but got '\0' instead.'",
    );
    reads("a: [1]\n]", r#"{"a":["1]"]}"#);
}

#[test]
fn switches_are_bare_words_in_any_case() {
    for word in ["true", "TRUE", "yes", "On"] {
        reads(&format!("a: {word}"), r#"{"a":true}"#);
    }
    for word in ["false", "No", "OFF"] {
        reads(&format!("a: {word}"), r#"{"a":false}"#);
    }
    reads("a: \"true\"", r#"{"a":"true"}"#);
}

#[test]
fn times_are_complete_or_refused() {
    reads("a: 2016-05-04T18:53:41Z", r#"{"a":"2016-05-04T18:53:41Z"}"#);
    reads("a: 2016-02-29T00:00:00Z", r#"{"a":"2016-02-29T00:00:00Z"}"#);
    fails(
        "a: 2015-02-29T00:00:00Z",
        "expected Zulu formatted DateTime, but got '2015-02-29T00:00:00Z'",
    );
    fails(
        "a: 2016-05",
        "Parse error on line 1: 'Expected '-' in ISO8601 datetime, but found '\0' instead.'",
    );
    fails("a: 16-05-04", "Parse error on line 1: 'All ISO8601 dates must be in full Zulu form.'");
}

#[test]
fn text_has_escapes_when_bare_or_in_double_quotes() {
    reads(r#"a: "x\ty\n\"\\\x41""#, r#"{"a":"x\ty\n\"\\A"}"#);
    reads(r"a: x\x41\ty", r#"{"a":"xA\ty"}"#);
    reads(r"a: 'x\ty'", r#"{"a":"x\\ty"}"#);
    reads("a: \"two\nlines\"", r#"{"a":"two\nlines"}"#);
    fails(
        r#"a: "\q""#,
        "Parse error on line 1: 'Invalid escape character 'q'. Only the following escape characters are allowed: \\xXX, \\t, \\n, \\r, \\\", \\\\.'",
    );
    fails(
        r#"a: "\xg1""#,
        "Parse error on line 1: 'Expected two hexadecimal digits after '\\x', but got 'g1''",
    );
    fails(
        "a: it's",
        "Parse error on line 1: 'Expected a top-level value to end with a new line, comment or EOF, but got 's' instead.'",
    );
    fails("a: \"open", "Parse error on line 1: 'Unexpected EOF.'");
}

#[test]
fn block_text_ends_at_a_bracket_alone_on_its_line() {
    reads("a: (\nx (y)\n)\nb: 1", "{\"a\":\"\\nx (y)\\n\",\"b\":1}");
    reads("a: (\nx\n) y\n)\n", "{\"a\":\"\\nx\\n) y\\n\"}");
    fails("a: (x", "Parse error on line 1: 'Unexpected EOF processing block.'");
}

#[test]
fn lists_and_maps_nest_and_separate_by_commas_or_lines() {
    reads("a: [ x, y\n z\n]", r#"{"a":["x","y","z"]}"#);
    reads("a: [[ 1, 2 ], { b: c }]", r#"{"a":[[1,2],{"b":"c"}]}"#);
    reads("a { b: 1; c = 2, d 3\n e { f: [] } }", r#"{"a":{"b":1,"c":2,"d":3,"e":{"f":[]}}}"#);
    reads("a: []", r#"{"a":[]}"#);
    fails("a: [,]", "Parse error on line 1: 'Unexpected array value terminator ','.'");
    fails("a { ]", "Parse error on line 1: 'Unexpected array end ']' processing map.'");
    fails(
        "a {\n b: 1",
        "Parse error on line 2: 'Expected a map value terminator \",\" or a map terminator \"}\", but got '\0' instead.'",
    );
    fails("a {", "Parse error on line 1: 'Unexpected EOF processing map.'");
    fails("= 1", "Parse error on line 1: 'Unexpected key separator '=''");
    fails("a", "config is invalid (:1:1)");
    fails("a:\n", "Parse error on line 2: 'Expected value but found new line'");
}

#[test]
fn nesting_is_bounded() {
    let deep = |depth: usize| format!("a: {}{}", "[".repeat(depth), " ]".repeat(depth));
    assert!(json(&deep(CONFIG_DEPTH_MAX)).is_ok());
    let refused = json(&deep(CONFIG_DEPTH_MAX + 1)).expect_err("one too deep");
    assert!(refused.contains("Nested deeper than 128 levels"), "{refused}");
    let braces = "{".repeat(100_000);
    assert!(json(&braces).is_err());
}

#[test]
fn variables_come_from_the_nearest_map_then_the_environment() {
    reads("x: 1\na: $x", r#"{"a":1,"x":1}"#);
    reads("x: 1\na { x: 2, b: $x }", r#"{"a":{"b":2,"x":2},"x":1}"#);
    reads("x: 1\na { b { c: $x } }", r#"{"a":{"b":{"c":1}},"x":1}"#);
    reads("x { y: 1 }\na: [$x, $x]", r#"{"a":[{"y":1},{"y":1}],"x":{"y":1}}"#);
    reads("a: \"$x\"", r#"{"a":"$x"}"#);
    reads("a: pre$x", r#"{"a":"pre$x"}"#);
    reads("a: $2a$10$abc", r#"{"a":"$2a$10$abc"}"#);
    fails("a: $x\nx: 1", "variable reference for 'x' on line 1 can not be found");
    let world = World {
        variables: HashMap::from([
            ("N", "4444"),
            ("S", "'a b'"),
            ("BAD", "a b"),
            ("M", "{ b: $N }"),
            ("C1", "$C2"),
            ("C2", "$C1"),
        ]),
        ..World::default()
    };
    assert_eq!(json_in("a: $N", &world).as_deref(), Ok(r#"{"a":4444}"#));
    assert_eq!(json_in("a: $S", &world).as_deref(), Ok(r#"{"a":"a b"}"#));
    assert_eq!(json_in("a: $M", &world).as_deref(), Ok(r#"{"a":{"b":4444}}"#));
    let bad = json_in("a: $BAD", &world).expect_err("two words are no value");
    assert!(bad.starts_with("variable reference for 'BAD' on line 1 could not be parsed: "));
    let cycle = json_in("a: $C1", &world).expect_err("a cycle has no value");
    assert!(cycle.ends_with("variable reference cycle for 'C1'"), "{cycle}");
}

#[test]
fn includes_join_the_present_map() {
    let world = World {
        files: HashMap::from([
            (
                PathBuf::from("etc/main.conf"),
                "include 'sub/a.conf'\nb: $a\nc { include /sub/a.conf }",
            ),
            (PathBuf::from("etc/sub/a.conf"), "a: 1\ninclude b.conf"),
            (PathBuf::from("etc/sub/b.conf"), "d: 2"),
            (PathBuf::from("hidden.conf"), "x: 1\ninclude uses.conf"),
            (PathBuf::from("uses.conf"), "y: $x"),
            (PathBuf::from("self.conf"), "include self.conf"),
            (PathBuf::from("bad.conf"), "include uses.conf"),
        ]),
        ..World::default()
    };
    let read = |name: &str| {
        parse_file(Path::new(name), &world).map(|map| {
            String::from_utf8(map.to_json()).expect("JSON is UTF-8").trim_end().to_string()
        })
    };
    let expected = r#"{"a":1,"b":1,"c":{"a":1,"d":2},"d":2}"#;
    assert_eq!(read("etc/main.conf").as_deref(), Ok(expected));
    let text = "error parsing include file 'uses.conf', variable reference for 'x' on line 1 can not be found";
    assert_eq!(read("hidden.conf"), Err(text.into()));
    let missing = "open nope.conf: no such file or directory";
    assert_eq!(read("nope.conf"), Err(missing.into()));
    assert!(
        read("self.conf").expect_err("it never ends").contains("included deeper than 32 files")
    );
    fails(
        "include [",
        "Parse error on line 1: 'Expected include value but found start of an array'",
    );
    fails(
        "include 5",
        "Parse error on line 1: 'Expected include value but found start of a number'",
    );
    reads("include: x", r#"{"include":"x"}"#);
}

/// Files that each name the next twice, as far as includes may go.
struct Doubling(Cell<usize>);

impl Surroundings for Doubling {
    fn read_file(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        self.0.set(self.0.get() + 1);
        let depth: usize = path.to_str().expect("text").parse().expect("a number");
        Ok(format!("include '{}'\n", depth + 1).repeat(usize::from(depth < 23) * 2).into_bytes())
    }

    /// Each variable stands for two of the next.
    fn variable(&self, name: &str) -> Option<std::ffi::OsString> {
        self.0.set(self.0.get() + 1);
        let depth: usize = name.strip_prefix('V')?.parse().ok()?;
        Some(if depth < 23 { format!("[$V{0}, $V{0}]", depth + 1) } else { "1".into() }.into())
    }
}

#[test]
fn what_one_configuration_reads_is_bounded() {
    let files = Doubling(Cell::new(0));
    let refused = parse_file(Path::new("1"), &files).expect_err("there are four million");
    assert!(refused.ends_with("configuration includes more than 65536 files"), "{refused}");
    assert_eq!(files.0.get(), CONFIG_TEXTS_MAX + 1);
    let few = Doubling(Cell::new(0));
    assert!(parse_file(Path::new("9"), &few).is_ok(), "{} files", few.0.get());
    assert_eq!(few.0.get(), (1 << 15) - 1);
    let variables = Doubling(Cell::new(0));
    let refused = parse_text(b"a: $V1", &variables).expect_err("as many");
    assert!(refused.contains("includes more than 65536 files"), "{refused}");
    assert!(variables.0.get() <= CONFIG_TEXTS_MAX + 1);
    let large = Read::default();
    assert!(large.count(CONFIG_BYTES_MAX).is_ok() && large.count(1).is_err());
}

/// Values that refer to each other are few bytes, and many where each is written out.
#[test]
fn what_variables_make_of_a_configuration_is_bounded() {
    let text = |levels: usize| {
        let line = |level| format!("v{level}: [$v{0}, $v{0}, '{1}']\n", level - 1, "x".repeat(50));
        let lines = (1..levels).map(line);
        format!("v0: 1\n{}", lines.collect::<String>())
    };
    let read = |levels: usize| {
        let text: &'static str = text(levels).leak();
        let files = HashMap::from([(PathBuf::from("a.conf"), text)]);
        parse_file(Path::new("a.conf"), &World { files, ..World::default() })
    };
    assert!(read(10).is_ok());
    let refused = read(200).expect_err("more than any memory holds");
    assert_eq!(refused, "configuration has more than 268435456 bytes of values");
}

#[test]
fn errors_name_file_line_and_column() {
    let world = World {
        files: HashMap::from([
            (PathBuf::from("a.conf"), "foo: 1\n  bar: 2\nauthorization {\n  baz: 1\n}\n"),
            (PathBuf::from("b.conf"), "\nport: \"x\"\n"),
            (PathBuf::from("c.conf"), "include a.conf"),
        ]),
        ..World::default()
    };
    let load = |name: &str| load::load_file(Path::new(name), &world, false).map(|_| ());
    let text = "a.conf:1:0: unknown field \"foo\"\na.conf:2:3: unknown field \"bar\"\n\
                a.conf:4:3: unknown field \"baz\"\n";
    for name in ["a.conf", "c.conf"] {
        let found = load(name);
        assert_eq!(found, Err(text.into()), "{name}");
    }
    let text = "b.conf:2:1: interface conversion: interface {} is string, not int64\n";
    assert_eq!(load("b.conf"), Err(text.into()));
}

/// Digests shown by `nats-server -t` for the same bytes.
#[test]
fn the_digest_is_nats_servers() {
    let cases = [
        ("port: 4222\n", "sha256:797533ebd0dfba7d34a0f9337ecf147e442871f48ddfd07ed751575a5737267e"),
        (
            "a: \"<&>\\x01é\"\nb: [1.5, {c: 2016-05-04T18:53:41Z}]\n",
            "sha256:4aa4b8d2bde94ece72a776dc89abb6bb2e27ade2ea7d96614f41b34b225ba237",
        ),
    ];
    for (text, digest) in cases {
        let map = parse_text(text.as_bytes(), &World::default()).expect("the text is good");
        assert_eq!(load::digest(&map), digest, "{text}");
    }
}

/// The defaults that the table names are in fact the defaults.
#[test]
fn writing_down_a_default_changes_nothing() {
    use crate::config::option_table::rows;
    use crate::config::row::Kind;
    let mut written = 0;
    for row in rows().filter(|row| !row.default.is_empty() && !row.key.contains('.')) {
        let value = match row.kind {
            Kind::Toggle(_) | Kind::Integer { .. } | Kind::Bytes { .. } => row.default.to_string(),
            Kind::Duration { .. } | Kind::Text(_) => format!("\"{}\"", row.default),
            _ => continue,
        };
        if matches!(row.key, "server_name" | "max_sub_tokens") {
            // Their defaults are descriptions, not values.
            continue;
        }
        let text: &'static str = Box::leak(format!("{}: {value}", row.key).into_boxed_str());
        let files = HashMap::from([(PathBuf::from("x"), text)]);
        let world = World { files, ..World::default() };
        let loaded = load::load_file(Path::new("x"), &world, false);
        let mut options = loaded.unwrap_or_else(|reason| panic!("{text}: {reason}")).options;
        options.files.config = None;
        options.config_digest = String::new();
        assert_eq!(options, Options::default(), "{text}");
        written += 1;
    }
    assert!(written > 25, "only {written} rows were tried");
}

/// Seeded: the same inputs in each run. The reader returns whatever the input.
#[test]
fn the_reader_survives_twenty_thousand_inputs() {
    const PIECES: [&str; 52] = [
        "a",
        "b",
        "port",
        "tls",
        "authorization",
        "accounts",
        "users",
        "include",
        "$a",
        "$b",
        "true",
        "12",
        "-5",
        "1k",
        "1kbb",
        "2m30s",
        "1.5",
        "1.2.3.4:80",
        "2016-05-04T18:53:41Z",
        "\"s\"",
        "'q'",
        "\"\\n\\x41\"",
        "\\q",
        "it's",
        "(\nx\n)\n",
        "\"",
        "'",
        "\\",
        "é",
        "\0",
        "99999999999999999999",
        "\n",
        " ",
        "=",
        ":",
        "{",
        "}",
        "[",
        "]",
        ",",
        ";",
        "#",
        "//",
        "/",
        "\r\n",
        "(",
        ")",
        "mappings",
        "permissions",
        "\u{85}",
        "midge",
        "f.conf",
    ];
    let world = World {
        files: HashMap::from([(PathBuf::from("f.conf"), "a: 1\nb { c: [x] }\ninclude f.conf")]),
        variables: HashMap::from([("a", "$b"), ("b", "$a")]),
    };
    let mut random = fastrand::Rng::with_seed(1);
    let mut good = 0;
    for index in 0..20_000 {
        let mut text: Vec<u8> = Vec::new();
        for _ in 0..random.usize(0..24) {
            text.extend_from_slice(PIECES[random.usize(0..PIECES.len())].as_bytes());
            if random.bool() {
                text.push(b' ');
            }
        }
        if !text.is_empty() && random.u8(0..4) == 0 {
            let place = random.usize(0..text.len());
            text[place] = random.u8(..);
        }
        if let Ok(map) = parse_text(&text, &world) {
            good += 1;
            let mut reader = crate::config::reader::Reader::new(&world, index % 2 == 0);
            reader.read_top(&map);
            assert!(load::digest(&map).starts_with("sha256:"));
        }
    }
    assert!(good > 1000, "only {good} inputs were well-formed");
}

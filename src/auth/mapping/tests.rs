//! Vectors observed on nats-server; weights are checked by counting.

use super::*;
use crate::config::auth_options::MappingDestinationOptions;

fn destination(subject: &str, weight: u8) -> MappingDestinationOptions {
    MappingDestinationOptions { subject: subject.to_owned(), weight, cluster: None }
}

fn rule(source: &str, destinations: Vec<MappingDestinationOptions>) -> MappingOptions {
    MappingOptions {
        source: source.to_owned(),
        destinations,
        is_plain: false,
        place: Place::default(),
    }
}

fn one(source: &str, to: &str) -> Vec<MappingOptions> {
    vec![MappingOptions { is_plain: true, ..rule(source, vec![destination(to, 100)]) }]
}

fn compile(inputs: &[MappingOptions]) -> Mappings {
    Mappings::compile(inputs, "A", None).expect("test mappings are valid")
}

/// Returns the resulting subject; None = lost.
fn mapped(mappings: &Mappings, subject: &str, random: &mut fastrand::Rng) -> Option<String> {
    let mut output = b"left over".to_vec();
    match mappings.map(subject.as_bytes(), random, &mut output) {
        Mapped::Unchanged => Some(subject.to_owned()),
        Mapped::Changed => Some(String::from_utf8(output).expect("test subjects are text")),
        Mapped::Lost => None,
    }
}

fn mapped_once(source: &str, to: &str, subject: &str) -> String {
    mapped(&compile(&one(source, to)), subject, &mut fastrand::Rng::with_seed(1))
        .expect("nothing is lost at full weight")
}

#[test]
fn destinations_are_built_as_nats_server_builds_them() {
    for (source, to, subject, expected) in [
        ("a", "b", "a", "b"),
        ("a", "b", "a.x", "a.x"),
        ("w.*.*", "x.{{wildcard(2)}}.{{wildcard(1)}}", "w.a.b", "x.b.a"),
        ("w.*.*", "x.{{wildcard(2)}}.{{wildcard(1)}}", "w.a", "w.a"),
        ("w.*.*", "x.{{wildcard(2)}}.{{wildcard(1)}}", "w.*.b", "x.b.*"),
        ("w.*.*", "x.{{wildcard(2)}}.{{wildcard(1)}}", "w.>.b", "w.>.b"),
        ("w.*.*", "x.{{wildcard(2)}}.{{wildcard(1)}}", "w.a.", "w.a."),
        ("w.*.*", "x.$2.$1", "w.a.b", "x.b.a"),
        ("a.*", "b.$0", "a.xyz", "b.a"),
        ("a.*", "b.$-1", "a.xyz", "b.a"),
        ("a.*", "b.{{wildcard(0)}}", "a.xyz", "b.a"),
        ("a.*", "b.$x", "a.xyz", "b.$x"),
        ("a.*", "b.{{ Wildcard ( 1 ) }}", "a.xyz", "b.xyz"),
        ("a.*", "b.{{wildcard(1)}}x", "a.x", "b.{{wildcard(1)}}x"),
        ("a.*", "b.foo", "a.x", "b.foo"),
        ("a.*", "b.{{}}", "a.x", "b.{{}}"),
        ("a.*", "b.{{partition(3,1)}}", "a.a", "b.1"),
        ("a.*", "b.{{partition(3,1)}}", "a.b", "b.1"),
        ("a.*", "b.{{partition(3,1)}}", "a.c", "b.2"),
        ("a.*", "b.{{partition(3)}}", "a.x", "b.2"),
        ("a.*", "b.{{partition(3)}}", "a.y", "b.1"),
        ("a.*", "b.{{partition(3)}}", "a.z", "b.1"),
        ("a.*", "b.{{partition(3)}}", "a.zz", "b.1"),
        ("a.*", "b.{{partition(0,1)}}", "a.x", "b.0"),
        ("a.*", "b.{{partition(-3,1)}}", "a.x", "b.4245442695"),
        ("a", "b.{{partition(5)}}", "a", "b.0"),
        ("foo.*.*", "p.$1.$2.{{partition(10,1,2)}}", "foo.bar.baz", "p.bar.baz.9"),
        ("foo.*.*", "p.$1.$2.{{Partition(10, 1, 2)}}", "foo.a.b", "p.a.b.6"),
        ("a.*", "b.{{random(0)}}", "a.x", "b.0"),
        ("a.*", "b.{{split(1,-)}}", "a.-a--b-", "b.a.b"),
        ("a.*", "b.{{split(1,-)}}", "a.a-b-c", "b.a.b.c"),
        ("a.*", "b.{{split(1, -)}}", "a.x-y", "b.x.y"),
        ("a.*", "b.{{Split(1,-)}}", "a.ab", "b.ab"),
        ("a.*", "b.{{split(1,--)}}", "a.x---y", "b.x.-y"),
        ("a.*", "b.{{split(1,)}}", "a.abc", "b.a.b.c"),
        // Accepted, and matches no subscription.
        ("a.*", "b.{{split(1,-)}}", "a.---", "b."),
        ("a.*", "b.{{SplitFromLeft(1,3)}}.z", "a.abcdef", "b.abc.def.z"),
        ("a.*", "b.{{SplitFromLeft(1,3)}}.z", "a.abc", "b.abc.z"),
        ("a.*", "b.{{SplitFromRight(1,2)}}", "a.abcdef", "b.abcd.ef"),
        ("a.*", "b.{{splitfromright(1,3)}}", "a.abc", "b.abc"),
        ("a.*", "b.{{SliceFromLeft(1,3)}}", "a.abcdefgh", "b.abc.def.gh"),
        ("a.*", "b.{{SliceFromLeft(1,3)}}", "a.abcdef", "b.abc.def"),
        ("a.*", "b.{{SliceFromLeft(1,3)}}", "a.ab", "b.ab"),
        ("a.*", "b.{{SliceFromRight(1,3)}}", "a.abcdefgh", "b.ab.cde.fgh"),
        ("a.*", "b.{{SliceFromRight(1,3)}}", "a.abcdef", "b.abc.def"),
        ("a.*", "b.{{slicefromright(1,0)}}", "a.abcdefgh", "b.abcdefgh"),
        ("a.*", "b.{{slicefromright(1,-1)}}", "a.abcdefgh", "b.abcdefgh"),
        ("a.*", "b.{{left(1,2)}}", "a.xyz", "b.xy"),
        ("a.*", "b.{{Right(1,2)}}", "a.xyz", "b.yz"),
        ("a.*", "b.{{right(1,9)}}", "a.xyz", "b.xyz"),
        ("a", "b.{{account-hash()}}.c", "a", "b.NUmM6cRx.c"),
        ("a.*", "b.$1.{{ Account-Hash ( ) }}", "a.x", "b.x.NUmM6cRx"),
        ("{{account-hash()}}.a", "b", "NUmM6cRx.a", "b"),
        ("a.*", "b.x{{account-hash()}}", "a.x", "b.x{{account-hash()}}"),
        ("a.>", "b.>", "a.x.y", "b.x.y"),
        ("a.*.>", "b.$1.>", "a.x.y.z", "b.x.y.z"),
        ("a.*.>", "b.$1.>", "a.x", "a.x"),
        ("a.*.>", "b.c.d.$1.e.>", "a.x.y", "b.c.d.x.e.y"),
        (">", "b.>", "a.x.y", "b.a.x.y"),
        (">", "b.>", "b.c", "b.b.c"),
        (">", ">", "a.b", "a.b"),
        ("a.>", ">", "a.x.y", "x.y"),
        ("gt.>", "new.gt.>", "gt.a.b", "new.gt.a.b"),
    ] {
        assert_eq!(mapped_once(source, to, subject), expected, "{source} -> {to}: {subject}");
    }
}

#[test]
fn random_stays_below_its_bound_and_reaches_every_value() {
    let mut random = fastrand::Rng::with_seed(7);
    for (source, subject) in [("a.*", "a.x"), ("a", "a")] {
        for to in ["b.{{random(3)}}", "b.{{random(-3)}}"] {
            let mappings = compile(&one(source, to));
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..200 {
                seen.insert(mapped(&mappings, subject, &mut random).expect("full weight"));
            }
            assert_eq!(Vec::from_iter(seen), ["b.0", "b.1", "b.2"]);
        }
    }
}

/// Counts each outcome in 10,000 messages; lost ones are under the empty name.
fn outcomes(mappings: &Mappings, subject: &str) -> std::collections::BTreeMap<String, u32> {
    let mut random = fastrand::Rng::with_seed(42);
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..10_000 {
        let outcome = mapped(mappings, subject, &mut random).unwrap_or_default();
        *counts.entry(outcome).or_default() += 1;
    }
    counts
}

fn assert_shares(mappings: &Mappings, subject: &str, shares: &[(&str, u32)]) {
    let counts = outcomes(mappings, subject);
    assert_eq!(
        counts.keys().map(String::as_str).collect::<Vec<_>>(),
        shares.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    );
    for (name, percent) in shares {
        let count = counts[*name];
        // Five standard deviations of a fair pick are below 250 of 10,000.
        assert!(count.abs_diff(percent * 100) < 250, "{name}: {count}");
    }
}

#[test]
fn weights_share_messages_and_the_rest_keeps_its_subject() {
    let split = vec![destination("b", 20), destination("c", 30)];
    assert_shares(&compile(&[rule("a", split)]), "a", &[("a", 50), ("b", 20), ("c", 30)]);
    let all = vec![destination("b", 60), destination("c", 40)];
    assert_shares(&compile(&[rule("a", all)]), "a", &[("b", 60), ("c", 40)]);
    let wildcards = vec![destination("c.$2.$1", 25)];
    let mappings = compile(&[rule("b.*.*", wildcards)]);
    assert_shares(&mappings, "b.x.y", &[("b.x.y", 75), ("c.y.x", 25)]);
    assert_shares(&compile(&[rule("a", vec![])]), "a", &[("a", 100)]);
    assert_shares(&compile(&[rule("a", vec![destination("b", 0)])]), "a", &[("a", 100)]);
}

#[test]
fn listing_the_source_loses_the_rest() {
    let lossy = vec![destination("a", 70), destination("b", 10)];
    assert_shares(&compile(&[rule("a", lossy)]), "a", &[("", 20), ("a", 70), ("b", 10)]);
    assert_shares(&compile(&[rule("a", vec![destination("a", 0)])]), "a", &[("", 100)]);
}

#[test]
fn a_list_for_this_cluster_replaces_the_general_one() {
    let scoped = |subject: &str, weight, cluster: &str| MappingDestinationOptions {
        cluster: Some(cluster.to_owned()),
        ..destination(subject, weight)
    };
    let input = [rule(
        "a",
        vec![destination("general", 100), scoped("east", 100, "EAST"), scoped("half", 50, "WEST")],
    )];
    for (cluster, shares) in [
        (None, &[("general", 100)][..]),
        (Some("EAST"), &[("east", 100)]),
        (Some("WEST"), &[("a", 50), ("half", 50)]),
        (Some("NORTH"), &[("general", 100)]),
    ] {
        let mappings = Mappings::compile(&input, "A", cluster).expect("valid");
        assert_shares(&mappings, "a", shares);
    }
    // Only lists for other clusters: the subject stays, unless one of them lists the source.
    let elsewhere = compile(&[rule("a", vec![scoped("b", 100, "EAST")])]);
    assert_shares(&elsewhere, "a", &[("a", 100)]);
    let lost = compile(&[rule("a", vec![scoped("a", 100, "EAST")])]);
    assert_shares(&lost, "a", &[("", 100)]);
}

#[test]
fn the_first_rule_that_matches_wins_and_is_applied_once() {
    let mappings = compile(&[
        rule("a.b", vec![destination("first", 100)]),
        rule("a.*", vec![destination("second.$1", 100)]),
        rule("second.*", vec![destination("third", 100)]),
        rule("a.*", vec![destination("replaced.$1", 100)]),
    ]);
    let mut random = fastrand::Rng::with_seed(1);
    assert_eq!(mapped(&mappings, "a.b", &mut random).as_deref(), Some("first"));
    assert_eq!(mapped(&mappings, "a.c", &mut random).as_deref(), Some("replaced.c"));
    assert_eq!(mapped(&mappings, "second.x", &mut random).as_deref(), Some("third"));
    assert!(compile(&[]).is_empty());
    assert!(!mappings.is_empty());
}

#[test]
fn bad_mappings_are_refused_in_nats_servers_words() {
    let general = "invalid mapping destination: ";
    for (source, to, words) in [
        ("a.*", "b.$2", "wildcard index out of range in $2: [2]"),
        ("a", "b.$1", "wildcard index out of range in $1"),
        ("a.>", "b.$1.>", "wildcard index out of range in $1: [1]"),
        ("a.*", "b.{{foo(1)}}", "unknown function in {{foo(1)}}"),
        ("a.*", "b.{{left}}", "unknown function in {{left}}"),
        ("a.*", "b.{{SPLIT(1,-)}}", "unknown function in {{SPLIT(1,-)}}"),
        (
            "a.*",
            "b.{{wildcard(1,2)}}",
            "too many arguments passed to the function in {{wildcard(1,2)}}",
        ),
        (
            "a.*",
            "b.{{wildcard()}}",
            "not enough arguments passed to the function in {{wildcard()}}",
        ),
        (
            "a.*",
            "b.{{wildcard(x)}}",
            "function argument is invalid or in the wrong format in {{wildcard(x)}}",
        ),
        ("a.*", "b.{{split(1)}}", "not enough arguments passed to the function in {{split(1)}}"),
        (
            "a.*",
            "b.{{split(1,a,b)}}",
            "too many arguments passed to the function in {{split(1,a,b)}}",
        ),
        (
            "a.*",
            "b.{{split(1,- )}}",
            "function argument is invalid or in the wrong format in {{split(1,- )}}",
        ),
        (
            "a.*",
            "b.{{partition()}}",
            "function argument is invalid or in the wrong format in {{partition()}}",
        ),
        (
            "a.*",
            "b.{{partition(3000000000,1)}}",
            "function argument is invalid or in the wrong format in {{partition(3000000000,1)}}",
        ),
        (
            "a.*",
            "b.{{partition(10,1,7)}}",
            "wildcard index out of range in {{partition(10,1,7)}}: [7]",
        ),
        (
            "a.*",
            "b.{{random(1,2)}}",
            "not enough arguments passed to the function in {{random(1,2)}}",
        ),
        (
            "a.*",
            "b.{{SliceFromLeft(1)}}",
            "not enough arguments passed to the function in {{SliceFromLeft(1)}}",
        ),
        (
            "a.*",
            "b.{{wildcard(1)}}x{{wildcard(1)}}",
            "function argument is invalid or in the wrong format in \
             {{wildcard(1)}}x{{wildcard(1)}}",
        ),
        ("a.*", "b.{{left(1)}}", "not enough arguments passed to the function in {{left(1)}}"),
        ("a.*", "b.{{right(2,1)}}", "wildcard index out of range in {{right(2,1)}}: [2]"),
        (
            "a",
            "b.{{account-hash(1)}}.c",
            "too many arguments passed to the function in {{account-hash(1)}}",
        ),
        (
            "a",
            "b.{{account-hash( ,)}}",
            "too many arguments passed to the function in {{account-hash( ,)}}",
        ),
        (
            "a.{{account-hash-import()}}",
            "b",
            "function is not available in this context in {{account-hash-import()}}",
        ),
        (
            "a",
            "b.{{account-hash-leaf-remote()}}",
            "function is not available in this context in {{account-hash-leaf-remote()}}",
        ),
        ("a", "b.{{account-Hash}}", "unknown function in {{account-Hash}}"),
        ("a", "b.{{account-HASH()}}", "unknown function in {{account-HASH()}}"),
        ("a", "b..c", "invalid transform"),
        ("a", "b.>.c", "invalid transform in c"),
        ("a", "b. c", "invalid transform"),
    ] {
        let error = Mappings::compile(&one(source, to), "A", None).expect_err(to);
        assert_eq!(
            error.to_string(),
            format!("Error adding mapping for {source:?} to {to:?} : {general}{words}")
        );
    }
    for (source, to) in [("a.>", "b"), ("a.*", "b.*"), ("a", "b.>")] {
        let error = Mappings::compile(&one(source, to), "A", None).expect_err(to);
        assert_eq!(
            error.to_string(),
            format!("Error adding mapping for {source:?} to {to:?} : invalid subject")
        );
    }
    for (source, destinations, words) in [
        (
            "a",
            vec![destination("b", 60), destination("c", 50)],
            r#"Error adding mapping for "a" : total weight needs to be <= 100"#,
        ),
        (
            "a",
            vec![destination("b", 50), destination("b", 50)],
            r#"Error adding mapping for "a" : duplicate entry for "b""#,
        ),
        (
            "a",
            vec![destination("b", 101)],
            r#"Error adding mapping for "a" : individual weights need to be <= 100"#,
        ),
        (
            "a",
            vec![destination("b.{{foo(1)}}", 100)],
            r#"Error adding mapping for "a" : invalid mapping destination: unknown function in {{foo(1)}}"#,
        ),
        (
            "a.{{account-hash-import()}}",
            vec![destination("b", 100)],
            "Error adding mapping for \"a.{{account-hash-import()}}\" : invalid mapping destination: \
             function is not available in this context in {{account-hash-import()}}",
        ),
        (
            "a",
            vec![destination("b.{{account-hash()}}", 50), destination("b.NUmM6cRx", 50)],
            r#"Error adding mapping for "a" : duplicate entry for "b.NUmM6cRx""#,
        ),
        ("a..*", vec![], r#"Subject "a..*" is not a valid subject"#),
    ] {
        let error = Mappings::compile(&[rule(source, destinations)], "A", None).expect_err(words);
        assert_eq!(error.to_string(), words);
    }
}

#[test]
fn an_error_says_where_the_mapping_stands() {
    let place = Place("nats.conf:2:12".to_owned());
    let input = MappingOptions { place, ..one("a", "b..c").remove(0) };
    let error = Mappings::compile(&[input], "A", None).expect_err("the destination is bad");
    assert_eq!(
        error.to_string(),
        "nats.conf:2:12: Error adding mapping for \"a\" to \"b..c\" : \
         invalid mapping destination: invalid transform"
    );
}

#[test]
fn odd_subjects_never_panic() {
    let mappings = compile(&[
        rule("a.*.>", vec![destination("b.{{SliceFromLeft(1,2)}}.{{partition(7,1)}}.>", 100)]),
        rule(">", vec![destination("all.>", 100)]),
    ]);
    let mut random = fastrand::Rng::with_seed(3);
    let mut output = Vec::new();
    for length in 0..12 {
        for _ in 0..2_000 {
            let subject: Vec<u8> = (0..length).map(|_| b"a.*>\xff"[random.usize(..5)]).collect();
            assert_eq!(mappings.map(&subject, &mut random, &mut output), Mapped::Changed);
        }
    }
}

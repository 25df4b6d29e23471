//! Permissions against the vectors of nats-server and against a naive model.

use proptest::prelude::*;

use std::time::Duration;

use super::*;
use crate::auth::subject_set::has_empty_token;
use crate::config::auth_options::ResponsePermissionOptions;

fn some_list(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(|entry| (*entry).to_owned()).collect())
}

fn subjects(allow: &[&str], deny: &[&str]) -> Option<SubjectPermissionOptions> {
    Some(SubjectPermissionOptions { allow: some_list(allow), deny: some_list(deny) })
}

fn publish(allow: &[&str], deny: &[&str]) -> PermissionOptions {
    PermissionOptions { publish: subjects(allow, deny), ..PermissionOptions::default() }
}

fn subscribe(allow: &[&str], deny: &[&str]) -> PermissionOptions {
    PermissionOptions { subscribe: subjects(allow, deny), ..PermissionOptions::default() }
}

fn responses(
    messages_max: Option<u32>,
    expires: Option<Duration>,
) -> Option<ResponsePermissionOptions> {
    Some(ResponsePermissionOptions { messages_max, expires })
}

fn compile(options: &PermissionOptions) -> Permissions {
    Permissions::compile(options, false).expect("test permissions are valid")
}

fn verdict(permissions: &Permissions, filter: &str, queue: Option<&str>) -> &'static str {
    match permissions.may_subscribe(filter.as_bytes(), queue.map(str::as_bytes)) {
        SubscribeRight::Allowed => "allowed",
        SubscribeRight::AllowedWithDeliveryFilter(_) => "filtered",
        SubscribeRight::Denied(Violation::Subscription) if queue.is_none() => "denied",
        SubscribeRight::Denied(Violation::SubscriptionWithQueue) if queue.is_some() => "denied",
        SubscribeRight::Denied(wrong) => panic!("{wrong:?} for {filter} {queue:?}"),
    }
}

#[test]
fn publish_lists_decide_as_nats_server_does() {
    use PublishRight::{Allowed, Denied};
    for (allow, deny, subject, expected) in [
        (&[][..], &[][..], "foo", Allowed),
        (&[], &[], "foo..bar", Allowed),
        (&["foo.*"], &[], "foo.a", Allowed),
        (&["foo.*"], &[], "foo.*", Allowed),
        (&["foo.*"], &[], "foo.>", Allowed),
        (&["foo.*"], &[], "foo.", Denied),
        (&["foo.*"], &[], "foo.a.b", Denied),
        (&["foo.*"], &[], ">", Denied),
        (&["foo.>"], &["foo.secret"], "foo.secret", Denied),
        (&["foo.>"], &["foo.secret"], "foo.secret.x", Allowed),
        (&["foo.>"], &["foo.*"], "foo.x", Denied),
        (&[], &["foo.>"], "foo.x", Denied),
        (&[], &["foo.>"], "foo", Allowed),
        // No subscription can match it, so letting it pass gives nothing away.
        (&[], &[">"], "foo.", Allowed),
        (&["foo"], &[], "", Denied),
    ] {
        let permissions = compile(&publish(allow, deny));
        assert_eq!(
            permissions.may_publish(subject.as_bytes()),
            expected,
            "allow {allow:?} deny {deny:?}: {subject}"
        );
    }
}

#[test]
fn reserved_subjects_and_replies_are_refused_whatever_the_lists_say() {
    let now = Instant::now();
    let mut replies = ReplyTable::default();
    let user = Permissions::unrestricted(false);
    let system = Permissions::unrestricted(true);
    let listed = compile(&publish(&[">"], &[]));
    let publish_refused = Err(Violation::Publish);
    let reply_refused = Err(Violation::PublishWithReply);
    for (subject, reply, user_result, system_result) in [
        ("foo", "", Ok(()), Ok(())),
        ("_GR_.x", "", publish_refused, publish_refused),
        ("_GR_.", "", Ok(()), Ok(())),
        ("_GR_", "", Ok(()), Ok(())),
        ("$GR.x", "", publish_refused, publish_refused),
        ("$GR.", "", Ok(()), Ok(())),
        ("$GR", "", Ok(()), Ok(())),
        ("$GRX.a", "", Ok(()), Ok(())),
        ("$JS.API.INFO", "", Ok(()), Ok(())),
        ("$NRG.x", "", publish_refused, Ok(())),
        ("$NRG.", "", publish_refused, Ok(())),
        ("$NRG", "", Ok(()), Ok(())),
        ("_INBOX.x", "_INBOX.y", Ok(()), Ok(())),
        ("foo", "_R_.a", reply_refused, reply_refused),
        ("foo", "_R_.", reply_refused, reply_refused),
        ("foo", "_R_", Ok(()), Ok(())),
        ("foo", "$JS.ACK.x", reply_refused, reply_refused),
        ("foo", "$JS.ACK.", reply_refused, reply_refused),
        ("foo", "$JS.API.INFO", reply_refused, reply_refused),
        ("foo", "$JS.x", reply_refused, reply_refused),
        ("foo", "$JS.", Ok(()), Ok(())),
        ("foo", "$JS", Ok(()), Ok(())),
        ("foo", "$JSX", Ok(()), Ok(())),
        ("foo", "$JSX.y", Ok(()), Ok(())),
        ("foo", "$SYS.x", Ok(()), Ok(())),
        ("foo", "$GR.x", reply_refused, reply_refused),
        ("foo", "$GR.", Ok(()), Ok(())),
        ("foo", "_GR_.x", reply_refused, reply_refused),
        ("foo", "_GR_.", Ok(()), Ok(())),
        // A violation by the subject is reported before one by the reply.
        ("_GR_.x", "_R_.a", publish_refused, publish_refused),
    ] {
        let mut check = |permissions: &Permissions| {
            permissions.check_publish(subject.as_bytes(), reply.as_bytes(), &mut replies, now)
        };
        assert_eq!(check(&user), user_result, "{subject} {reply}");
        assert_eq!(check(&system), system_result, "system account: {subject} {reply}");
        // A list does not allow what no pattern can match.
        if !has_empty_token(subject.as_bytes()) {
            assert_eq!(check(&listed), user_result, "listed: {subject} {reply}");
        }
    }
}

#[test]
fn subscriptions_are_decided_by_subset_and_filtered_by_overlap() {
    for (allow, deny, filter, queue, expected) in [
        (&[][..], &[][..], ">", None, "allowed"),
        (&["foo.>"], &[], "foo.*", None, "allowed"),
        (&["foo.>"], &[], "foo.>", None, "allowed"),
        (&["foo.>"], &[], ">", None, "denied"),
        (&["foo.>"], &[], "foo", None, "denied"),
        (&["foo.*"], &[], "foo.bar", None, "allowed"),
        (&["foo.*"], &[], "*", None, "denied"),
        (&["foo.*"], &[], "foo.", None, "denied"),
        // nats-server accepts this and delivers foo.a.b.
        (&["foo.*"], &[], "foo.>", None, "denied"),
        (&["foo.*", "foo.>"], &[], "foo.>", None, "allowed"),
        (&["foo.>"], &["foo.secret"], "foo.>", None, "filtered"),
        (&["foo.>"], &["foo.secret"], "foo.*", None, "filtered"),
        (&["foo.>"], &["foo.secret"], "foo.secret", None, "denied"),
        (&["foo.>"], &["foo.secret"], "foo.secret", Some("q"), "denied"),
        (&["foo.>"], &["foo.secret"], "foo.public", None, "allowed"),
        (&["foo.>"], &["bar"], "foo.>", None, "allowed"),
        (&[], &["foo.*"], "foo.>", None, "filtered"),
        (&[], &["foo.*"], "foo.*", None, "denied"),
        (&[], &["foo.*"], "*.bar", None, "filtered"),
        (&[], &["foo.*"], "foo.", None, "allowed"),
        (&[], &[">"], "foo", None, "denied"),
        // Queue entries.
        (&["foo", "foo v1"], &[], "foo", None, "allowed"),
        (&["foo", "foo v1"], &[], "foo", Some("v1"), "allowed"),
        (&["foo", "foo v1"], &[], "foo", Some("v2"), "denied"),
        (&["foo v1"], &[], "foo", None, "denied"),
        (&["foo v1"], &[], "foo", Some("v1"), "allowed"),
        (&["foo", "bar v1"], &[], "foo", Some("any"), "allowed"),
        (&["bar v1", "bar v.>"], &[], "bar", Some("v1"), "allowed"),
        (&["bar v1", "bar v.>"], &[], "bar", Some("v.1.2"), "allowed"),
        (&["bar v1", "bar v.>"], &[], "bar", Some("v."), "allowed"),
        (&["bar v1", "bar v.>"], &[], "bar", Some("v"), "denied"),
        (&["bar v1", "bar v.>"], &[], "bar", Some("v.>"), "allowed"),
        (&["foo.> q"], &[], "foo.*", Some("q"), "allowed"),
        (&["foo.* q"], &[], "foo.>", Some("q"), "denied"),
        (&[], &["foo.a q1"], "foo.a", None, "allowed"),
        (&[], &["foo.a q1"], "foo.a", Some("q1"), "denied"),
        (&[], &["foo.a q1"], "foo.*", Some("q1"), "filtered"),
        (&[], &["foo.a q1"], "foo.*", Some("q2"), "allowed"),
        (&[], &["bar q.*"], "bar", Some("q.x"), "denied"),
        (&[], &["bar q.*"], "bar", Some("q.>"), "allowed"),
        (&[], &["bar q.*"], "bar", Some("q.*"), "denied"),
        (&[], &["bar q.*"], "bar", Some("q.x.y"), "allowed"),
        (&[], &["bar q.*"], "bar", Some("q."), "allowed"),
        // The server's own queue group.
        (&[], &[], "foo", Some("_sys_"), "denied"),
    ] {
        let permissions = compile(&subscribe(allow, deny));
        assert_eq!(
            verdict(&permissions, filter, queue),
            expected,
            "allow {allow:?} deny {deny:?}: {filter} {queue:?}"
        );
    }
}

#[test]
fn a_plain_deny_beside_a_queue_deny_filters_both() {
    let permissions = compile(&subscribe(&[], &["foo.plain", "foo.queued q"]));
    for (queue, plain_denied, queued_denied) in
        [(None, true, false), (Some(&b"q"[..]), true, true), (Some(&b"r"[..]), true, false)]
    {
        let SubscribeRight::AllowedWithDeliveryFilter(filter) =
            permissions.may_subscribe(b"foo.*", queue)
        else {
            panic!("foo.* overlaps a deny entry");
        };
        assert_eq!(filter.denies(b"foo.plain"), plain_denied, "{queue:?}");
        assert_eq!(filter.denies(b"foo.queued"), queued_denied, "{queue:?}");
        assert!(!filter.denies(b"foo.other"), "{queue:?}");
    }
}

#[test]
fn subscriptions_share_the_denied_subjects_of_their_user() {
    let denied: Vec<String> = (0..1_000).map(|number| format!("dep{number}.secret.>")).collect();
    let denied: Vec<&str> = denied.iter().map(String::as_str).collect();
    let permissions = compile(&subscribe(&[], &denied));
    let filters: Vec<DeliveryFilter> = [&b">"[..], b"*.secret.x", b"dep1.>"]
        .into_iter()
        .map(|filter| match permissions.may_subscribe(filter, None) {
            SubscribeRight::AllowedWithDeliveryFilter(filter) => filter,
            other => panic!("all three overlap: {other:?}"),
        })
        .collect();
    for filter in &filters {
        assert!(Arc::ptr_eq(&filter.rules, &permissions.subscribe_deny), "a copy");
        assert!(filter.denies(b"dep1.secret.x"));
        assert!(!filter.denies(b"dep1.open.x"));
    }
}

#[test]
fn responses_are_allowed_where_no_list_allows_them() {
    let start = Instant::now();
    let mut input = publish(&[], &["x"]);
    input.allow_responses = responses(Some(2), Some(Duration::from_secs(60)));
    let permissions = compile(&input);
    let mut replies = ReplyTable::default();
    let refused = Err(Violation::Publish);
    // Responses allowed without an allow list: nothing else is.
    assert_eq!(permissions.check_publish(b"foo", b"", &mut replies, start), refused);
    permissions.note_delivery(b"", &mut replies, start);
    assert!(replies.is_empty());
    permissions.note_delivery(b"inbox.1", &mut replies, start);
    // A denied subject can be a response too.
    permissions.note_delivery(b"x", &mut replies, start);
    assert_eq!(permissions.check_publish(b"inbox.1", b"", &mut replies, start), Ok(()));
    assert_eq!(permissions.check_publish(b"inbox.1", b"", &mut replies, start), Ok(()));
    assert_eq!(permissions.check_publish(b"inbox.1", b"", &mut replies, start), refused);
    assert_eq!(permissions.check_publish(b"x", b"", &mut replies, start), Ok(()));
    let late = start + Duration::from_secs(61);
    assert_eq!(permissions.check_publish(b"x", b"", &mut replies, late), refused);
    // A reserved subject is never tracked.
    permissions.note_delivery(b"_GR_.x", &mut replies, start);
    assert_eq!(permissions.check_publish(b"_GR_.x", b"", &mut replies, start), refused);
}

#[test]
fn responses_that_a_list_allows_are_not_tracked() {
    let now = Instant::now();
    let mut input = publish(&["inbox.>"], &[]);
    input.allow_responses = Some(ResponsePermissionOptions::default());
    let permissions = compile(&input);
    let mut replies = ReplyTable::default();
    permissions.note_delivery(b"inbox.1", &mut replies, now);
    assert!(replies.is_empty());
    permissions.note_delivery(b"other.1", &mut replies, now);
    assert_eq!(replies.len(), 1);
    let mut without = ReplyTable::default();
    compile(&publish(&["inbox.>"], &[])).note_delivery(b"other.1", &mut without, now);
    assert!(without.is_empty());
}

#[test]
fn zero_in_the_response_rule_means_the_default() {
    let rule = |options: Option<ResponsePermissionOptions>| {
        ResponseRule::from(&options.expect("the helper gives some"))
    };
    let default = ResponseRule { max: Some(1), expires: Some(Duration::from_secs(120)) };
    assert_eq!(rule(responses(Some(0), Some(Duration::ZERO))), default);
    assert_eq!(rule(responses(None, None)), ResponseRule { max: None, expires: None });
}

#[test]
fn absent_and_empty_lists_allow_everything() {
    for options in [
        PermissionOptions::default(),
        publish(&[], &[]),
        subscribe(&[], &[]),
        PermissionOptions {
            publish: Some(SubjectPermissionOptions::default()),
            subscribe: Some(SubjectPermissionOptions::default()),
            allow_responses: None,
        },
    ] {
        let permissions = compile(&options);
        assert_eq!(permissions.may_publish(b"foo"), PublishRight::Allowed);
        assert_eq!(verdict(&permissions, ">", None), "allowed");
    }
}

#[test]
fn bad_entries_are_refused_in_nats_servers_words() {
    for (input, words) in [
        (publish(&["foo..bar"], &[]), r#"subject "foo..bar" is not a valid subject"#),
        (publish(&[], &["foo q"]), r#"subject "foo q" is not a valid subject"#),
        (subscribe(&["a b c"], &[]), r#"subject "a b c" is not a valid subject"#),
        (subscribe(&["a. q"], &[]), r#"subject "a." is not a valid subject"#),
        (subscribe(&[], &["a q."]), r#"queue "q." is not a valid queue"#),
        (subscribe(&[], &[""]), r#"subject "" is not a valid subject"#),
    ] {
        let error = Permissions::compile(&input, false).expect_err("an entry is bad");
        assert_eq!(error.to_string(), words);
    }
}

/// The naive twin: a recursive matcher over lists of tokens; "subset of" is decided by trying every
/// subject of a small universe. The universe has a token that no pattern uses and is one level
/// deeper than any pattern, so that two patterns that differ at all differ there.
mod naive {
    pub(super) const UNIVERSE_TOKENS: [&str; 3] = ["a", "b", "z"];
    pub(super) const UNIVERSE_DEPTH: usize = 4;

    pub(super) fn matches(pattern: &[&str], tokens: &[&str]) -> bool {
        match (pattern, tokens) {
            ([], []) => true,
            ([">"], [_, ..]) => true,
            ([first, pattern @ ..], [token, tokens @ ..]) => {
                (*first == "*" || first == token) && matches(pattern, tokens)
            }
            _ => false,
        }
    }

    pub(super) fn universe() -> Vec<Vec<&'static str>> {
        let mut all = Vec::new();
        let mut level: Vec<Vec<&str>> = vec![Vec::new()];
        for _ in 0..UNIVERSE_DEPTH {
            level = level
                .iter()
                .flat_map(|prefix| {
                    UNIVERSE_TOKENS.iter().map(move |token| {
                        let mut tokens = prefix.clone();
                        tokens.push(*token);
                        tokens
                    })
                })
                .collect();
            all.extend(level.iter().cloned());
        }
        all
    }

    pub(super) fn text_matches(pattern: &str, subject: &[&str]) -> bool {
        matches(&pattern.split('.').collect::<Vec<_>>(), subject)
    }

    pub(super) fn is_subset(filter: &str, wider: &str, universe: &[Vec<&str>]) -> bool {
        universe
            .iter()
            .filter(|subject| text_matches(filter, subject))
            .all(|subject| text_matches(wider, subject))
    }

    /// One entry of a list: pattern of the subject and pattern of the queue.
    pub(super) type Entry = (String, Option<String>);

    pub(super) fn queue_named(entry_queue: &str, queue: &str) -> bool {
        entry_queue == queue || text_matches(entry_queue, &queue.split('.').collect::<Vec<_>>())
    }

    /// Returns true if this filter may be subscribed to at all.
    pub(super) fn accepts(
        allow: &[Entry],
        deny: &[Entry],
        filter: &str,
        queue: Option<&str>,
        universe: &[Vec<&str>],
    ) -> bool {
        let covers = |entry: &Entry| is_subset(filter, &entry.0, universe);
        let plain = |list: &[Entry]| list.iter().any(|entry| entry.1.is_none() && covers(entry));
        let mut allowed = allow.is_empty() || plain(allow);
        if let Some(queue) = queue {
            let queued: Vec<_> =
                allow.iter().filter(|entry| entry.1.is_some() && covers(entry)).collect();
            if !queued.is_empty() {
                allowed = queued
                    .iter()
                    .any(|entry| entry.1.as_deref().is_some_and(|name| queue_named(name, queue)));
            }
        }
        let denied = plain(deny)
            || deny.iter().any(|entry| match (&entry.1, queue) {
                (Some(name), Some(queue)) => covers(entry) && queue_named(name, queue),
                _ => false,
            });
        allowed && !denied
    }

    /// Returns true if this message must be kept from a subscription in this queue.
    pub(super) fn denies(deny: &[Entry], subject: &[&str], queue: Option<&str>) -> bool {
        deny.iter().any(|(pattern, entry_queue)| {
            text_matches(pattern, subject)
                && match (entry_queue, queue) {
                    (None, _) => true,
                    (Some(name), Some(queue)) => queue_named(name, queue),
                    (Some(_), None) => false,
                }
        })
    }
}

fn pattern() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec!["a", "b", "*"]);
    (prop::collection::vec(token, 0..3), any::<bool>()).prop_map(|(mut tokens, tail)| {
        if tail || tokens.is_empty() {
            tokens.push(">");
        }
        tokens.join(".")
    })
}

fn entry() -> impl Strategy<Value = naive::Entry> {
    let queue = prop::sample::select(vec![None, None, Some("q"), Some("q.*"), Some("r.>")]);
    (pattern(), queue).prop_map(|(subject, queue)| (subject, queue.map(str::to_owned)))
}

fn entry_text(entry: &naive::Entry) -> String {
    match &entry.1 {
        Some(queue) => format!("{} {queue}", entry.0),
        None => entry.0.clone(),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe { filter: String, queue: Option<&'static str> },
    Unsubscribe { index: usize },
    Publish { subject_index: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let queue = prop::sample::select(vec![None, None, Some("q"), Some("q.x"), Some("r.1.2")]);
    prop_oneof![
        3 => (pattern(), queue).prop_map(|(filter, queue)| Step::Subscribe { filter, queue }),
        1 => any::<usize>().prop_map(|index| Step::Unsubscribe { index }),
        6 => any::<usize>().prop_map(|subject_index| Step::Publish { subject_index }),
    ]
}

/// A subscription as the broker holds it.
struct Held {
    filter: String,
    queue: Option<&'static str>,
    delivery: Option<DeliveryFilter>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Random lists, subscriptions and publishes: what the broker would deliver by our answers is
    /// exactly what the naive model allows.
    #[test]
    fn no_denied_message_is_delivered_and_no_allowed_one_is_lost(
        subscribe_allow in prop::collection::vec(entry(), 0..4),
        subscribe_deny in prop::collection::vec(entry(), 0..4),
        publish_allow in prop::collection::vec(pattern(), 0..4),
        publish_deny in prop::collection::vec(pattern(), 0..4),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let universe = naive::universe();
        let permissions = compile(&PermissionOptions {
            subscribe: Some(SubjectPermissionOptions {
                allow: Some(subscribe_allow.iter().map(entry_text).collect()),
                deny: Some(subscribe_deny.iter().map(entry_text).collect()),
            }),
            publish: Some(SubjectPermissionOptions {
                allow: Some(publish_allow.clone()),
                deny: Some(publish_deny.clone()),
            }),
            allow_responses: None,
        });
        let mut replies = ReplyTable::default();
        let now = Instant::now();
        let mut held: Vec<Held> = Vec::new();
        for step in steps {
            match step {
                Step::Subscribe { filter, queue } => {
                    let right =
                        permissions.may_subscribe(filter.as_bytes(), queue.map(str::as_bytes));
                    let accepted = naive::accepts(
                        &subscribe_allow, &subscribe_deny, &filter, queue, &universe,
                    );
                    prop_assert_eq!(
                        !matches!(right, SubscribeRight::Denied(_)),
                        accepted,
                        "SUB {} {:?}", filter, queue
                    );
                    match right {
                        SubscribeRight::Allowed => held.push(Held { filter, queue, delivery: None }),
                        SubscribeRight::AllowedWithDeliveryFilter(delivery) => {
                            held.push(Held { filter, queue, delivery: Some(delivery) });
                        }
                        SubscribeRight::Denied(_) => {}
                    }
                }
                Step::Unsubscribe { index } => {
                    if !held.is_empty() {
                        held.swap_remove(index % held.len());
                    }
                }
                Step::Publish { subject_index } => {
                    let tokens = &universe[subject_index % universe.len()];
                    let subject = tokens.join(".");
                    let may_publish = (publish_allow.is_empty()
                        || publish_allow.iter().any(|entry| naive::text_matches(entry, tokens)))
                        && !publish_deny.iter().any(|entry| naive::text_matches(entry, tokens));
                    prop_assert_eq!(
                        permissions.check_publish(subject.as_bytes(), b"", &mut replies, now).is_ok(),
                        may_publish,
                        "PUB {}", subject
                    );
                    // Publishes of other users reach our subscriptions, whatever our user may
                    // publish.
                    for subscription in &held {
                        let matched = naive::text_matches(&subscription.filter, tokens);
                        let delivered = matched
                            && !subscription
                                .delivery
                                .as_ref()
                                .is_some_and(|filter| filter.denies(subject.as_bytes()));
                        let denied = naive::denies(&subscribe_deny, tokens, subscription.queue);
                        prop_assert_eq!(
                            delivered,
                            matched && !denied,
                            "{} to {} {:?}", subject, subscription.filter, subscription.queue
                        );
                        if delivered && !subscribe_allow.is_empty() {
                            prop_assert!(
                                subscribe_allow
                                    .iter()
                                    .any(|entry| naive::text_matches(&entry.0, tokens)),
                                "{} delivered outside the allow list", subject
                            );
                        }
                    }
                }
            }
        }
    }
}

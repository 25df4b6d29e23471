//! JWTs good and bad, and their claims.

use nkeys::KeyPair;
use serde_json::json;

use super::minting::{mint, mint_old};
use super::*;
use crate::auth::jwt::claims::{
    AccountClaims, ActivationClaims, ExportType, OperatorClaims, UserClaims, is_revoked,
};
use crate::auth::jwt::validate;

fn user(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({
        "sub": KeyPair::new_user().public_key(), "name": "u", "iat": 1,
        "nats": {"type": "user", "version": 2, "subs": -1, "payload": -1},
    });
    change(&mut claims);
    claims
}

#[test]
fn a_signed_jwt_has_the_claims_that_were_signed() {
    let account = KeyPair::new_account();
    let text = mint(user(|claims| claims["nats"]["pub"] = json!({"allow": ["a.>"]})), &account);
    let claims = UserClaims::decode(&text).expect("good");
    assert_eq!(claims.common.issuer, account.public_key());
    assert_eq!(claims.account(), account.public_key());
    assert_eq!((claims.user.rights.subs, claims.user.rights.data), (-1, 0));
    assert_eq!(claims.user.rights.permissions.publish.allow, ["a.>"]);
    assert!(!validate::user(&claims, 10).is_blocking());
}

#[test]
fn a_change_of_any_character_is_found() {
    let text = mint(user(|_| {}), &KeyPair::new_account());
    for place in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).expect("ASCII");
        assert!(UserClaims::decode(&changed).is_err(), "{place}");
        assert!(UserClaims::decode(&text[..place]).is_err(), "{place}");
    }
}

#[test]
fn names_are_found_in_any_letter_case() {
    let text = mint(
        user(|claims| {
            claims["NATS"] = json!({"Type": "user", "VERSION": 2, "Pub": {"DENY": ["secret"]}});
            claims.as_object_mut().expect("an object").remove("nats");
        }),
        &KeyPair::new_account(),
    );
    let claims = UserClaims::decode(&text).expect("good");
    assert_eq!(claims.user.rights.permissions.publish.deny, ["secret"]);
}

#[test]
fn kinds_versions_and_issuers_are_checked() {
    let account = KeyPair::new_account();
    let error = |claims: Value, issuer: &KeyPair| UserClaims::decode(&mint(claims, issuer)).err();
    assert_eq!(error(user(|_| {}), &account), None);
    assert_eq!(error(user(|_| {}), &KeyPair::new_operator()), Some(JwtError::Issuer));
    assert_eq!(error(user(|_| {}), &KeyPair::new_user()), Some(JwtError::Issuer));
    let kind = |kind: &str| user(|claims| claims["nats"]["type"] = kind.into());
    assert_eq!(error(kind("account"), &account), Some(JwtError::Not(Kind::User)));
    assert_eq!(error(kind("other"), &account), Some(JwtError::Not(Kind::User)));
    assert!(matches!(error(kind("server"), &account), Some(JwtError::Unsupported(_))));
    let version = |version: i64| user(|claims| claims["nats"]["version"] = version.into());
    assert_eq!(error(version(3), &account), Some(JwtError::Newer));
    assert_eq!(error(version(0), &account), Some(JwtError::Version(0)));
    assert_eq!(Token::decode("a.b").err(), Some(JwtError::Chunks));
    assert_eq!(Token::decode("a.b.c.d").err(), Some(JwtError::Chunks));
    let large = "x".repeat(JWT_BYTES_MAX + 1);
    assert_eq!(Token::decode(&large).err(), Some(JwtError::TooLarge(JWT_BYTES_MAX + 1)));
    let wrong = user(|claims| claims["nats"]["pub"] = json!({"allow": "a"}));
    assert_eq!(error(wrong, &account), Some(JwtError::Json));
}

#[test]
fn the_older_form_is_understood() {
    let account = KeyPair::new_account();
    let claims = json!({
        "sub": KeyPair::new_user().public_key(), "type": "user", "tags": ["a:b"],
        "issuer_account": "AX", "nats": {"sub": {"allow": ["x"]}, "src": "10.0.0.0/8, 127.0.0.1/32"},
    });
    let old = UserClaims::decode(&mint_old(claims.clone(), &account)).expect("good");
    assert_eq!((old.account(), &*old.user.tags), ("AX", &["a:b".to_owned()][..]));
    assert_eq!((old.user.rights.subs, old.user.rights.payload), (-1, -1));
    assert_eq!(old.user.rights.src, ["10.0.0.0/8", "127.0.0.1/32"]);
    // Signed as the newer form it is not what it says it is.
    assert_eq!(UserClaims::decode(&mint(claims, &account)).err(), Some(JwtError::Signature(1)));
}

#[test]
fn accounts_have_scoped_keys_revocations_and_limits() {
    let operator = KeyPair::new_operator();
    let (plain, scoped) =
        (KeyPair::new_account().public_key(), KeyPair::new_account().public_key());
    let text = mint(
        json!({
            "sub": KeyPair::new_account().public_key(), "name": "A",
            "nats": {
                "type": "account", "version": 2,
                "limits": {"subs": 5, "conn": -1, "exports": -1, "wildcards": true, "imports": -1},
                "signing_keys": [plain, {
                    "kind": "user_scope", "key": scoped, "role": "r",
                    "template": {"payload": 7, "pub": {"deny": ["no"]}},
                }],
                "revocations": {"*": 10, "UBOB": 20},
                "exports": [{"subject": "s.*", "type": "service", "token_req": true,
                    "service_latency": {"sampling": "headers", "results": "lat"}}],
                "mappings": {"Name": [{"subject": "b", "weight": 30}]},
            },
        }),
        &operator,
    );
    let claims = AccountClaims::decode(&text).expect("good");
    assert_eq!(validate::account(&claims, 0).listed(), "");
    let account = &claims.account;
    assert_eq!(account.signing_keys[&plain], None);
    let scope = account.signing_keys[&scoped].as_ref().expect("it has one");
    let template = &scope.template;
    assert_eq!((template.subs, template.payload, template.data), (-1, 7, -1));
    assert_eq!(template.permissions.publish.deny, ["no"]);
    let revoked = |subject: &str, at| is_revoked(&account.revocations, subject, at);
    assert!(revoked("ANY", 10) && !revoked("ANY", 11) && revoked("UBOB", 20));
    assert!(!revoked("UBOB", 21));
    assert_eq!(account.exports[0].service_latency.as_ref().expect("it has one").sampling, 0);
    assert_eq!(account.mappings["Name"][0].percent(), 30);
    assert_eq!((account.limits.subs, account.limits.leaf), (5, 0));
}

#[test]
fn operators_and_activations_are_read() {
    let operator = KeyPair::new_operator();
    let key = operator.public_key();
    let text = mint(
        json!({"sub": key, "nats": {"type": "operator", "version": 2, "signing_keys": [key]}}),
        &operator,
    );
    let claims = OperatorClaims::decode(&text).expect("good");
    assert_eq!(claims.operator.signing_keys, [key]);
    let exporter = KeyPair::new_account();
    let importer = KeyPair::new_account().public_key();
    let text = mint(
        json!({"sub": importer, "exp": 5, "nats": {
            "type": "activation", "version": 2, "kind": "service", "subject": "s.>"}}),
        &exporter,
    );
    let claims = ActivationClaims::decode(&text).expect("good");
    assert_eq!((claims.kind, &*claims.subject), (Some(ExportType::Service), "s.>"));
    assert!(!validate::activation(&claims, 5).is_blocking());
    assert_eq!(validate::activation(&claims, 6).listed(), "claim is expired");
}

#[test]
fn everything_wrong_with_claims_is_told() {
    let account = KeyPair::new_account();
    let issues = |change: fn(&mut Value)| {
        let text = mint(user(change), &account);
        validate::user(&UserClaims::decode(&text).expect("signed"), 100).listed()
    };
    assert_eq!(issues(|claims| claims["exp"] = 99.into()), "claim is expired");
    assert_eq!(issues(|claims| claims["exp"] = 100.into()), "");
    assert_eq!(issues(|claims| claims["nbf"] = 101.into()), "claim is not yet valid");
    assert_eq!(
        issues(|claims| claims["nats"]["src"] = json!(["zz"])),
        "invalid cidr \"zz\" in user src limits"
    );
    assert_eq!(
        issues(|claims| claims["nats"]["times_location"] = "No/Where".into()),
        "could not parse iana time zone by name: unknown time zone No/Where"
    );
    assert_eq!(
        issues(|claims| claims["nats"]["pub"] = json!({"deny": ["a b"]})),
        "Permission Subject \"a b\" is not allowed to contain queue"
    );
    assert_eq!(
        issues(|claims| claims["nats"]["issuer_account"] = "x".into()),
        "account_id is not an account public key"
    );
}

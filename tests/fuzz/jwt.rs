//! JWTs: any text, and any claims with a good signature.

use data_encoding::BASE64URL_NOPAD;
use fastrand::Rng;
use midge::testing::auth::jwt::examine;
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

fn pair(kind: KeyPairType) -> KeyPair {
    KeyPair::new_from_raw(kind, [7; 32]).expect("any bytes are a seed")
}

fn mint(claims: &Value, issuer: &KeyPair, is_old: bool) -> String {
    let algorithm = if is_old { "ed25519" } else { "ed25519-nkey" };
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let header = encode(&json!({"typ": "JWT", "alg": algorithm}));
    let body = encode(claims);
    let signed = if is_old { body.clone() } else { format!("{header}.{body}") };
    let signature = issuer.sign(signed.as_bytes()).expect("the pair has a seed");
    format!("{header}.{body}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// Claims of every kind with every field.
fn seeds() -> [Value; 5] {
    let account = pair(KeyPairType::Account).public_key();
    let rights = json!({
        "pub": {"allow": ["a.{{name()}}"], "deny": ["b"]}, "sub": {"allow": ["c q"], "deny": []},
        "resp": {"max": 1, "ttl": 5}, "src": ["10.0.0.0/8"], "times_location": "Europe/Berlin",
        "times": [{"start": "10:00:00", "end": "11:00:00"}], "subs": -1, "data": -1, "payload": 5,
        "bearer_token": true, "allowed_connection_types": ["MQTT"],
    });
    let activation = mint(
        &json!({"iss": account, "sub": account, "nats": {"type": "activation", "version": 2,
            "kind": "stream", "subject": "s.>"}}),
        &pair(KeyPairType::Account),
        false,
    );
    let mut user = rights.clone();
    user["type"] = "user".into();
    user["version"] = 2.into();
    user["issuer_account"] = account.clone().into();
    user["tags"] = json!(["a:b"]);
    [
        json!({"iss": account, "sub": "U", "exp": 5, "nbf": 1, "nats": user}),
        json!({"iss": account, "sub": "U", "type": "user", "tags": ["x"], "nats": rights}),
        json!({"iss": account, "sub": account, "name": "A", "nats": {"type": "account", "version": 2,
            "imports": [{"subject": "s.*", "account": account, "type": "stream", "token": activation,
                "local_subject": "l.$1"}],
            "exports": [{"subject": "e.*", "type": "service", "account_token_position": 2,
                "response_type": "Stream", "revocations": {"*": 1},
                "service_latency": {"sampling": "headers", "results": "l"}}],
            "limits": {"subs": 1, "conn": 1, "wildcards": true, "tiered_limits": {"R1": {}}},
            "signing_keys": [account, {"kind": "user_scope", "key": account, "template": rights}],
            "mappings": {"m.*": [{"subject": "n.$1", "weight": 50}]},
            "authorization": {"auth_users": ["U"], "allowed_accounts": ["*"]},
            "trace": {"dest": "t", "sampling": 5}}}),
        json!({"iss": account, "sub": account, "nats": {"type": "activation", "version": 2,
            "kind": "service", "subject": "s"}}),
        json!({"iss": account, "sub": "O", "nats": {"type": "operator", "version": 2,
            "signing_keys": [account], "assert_server_version": "2.0.0"}}),
    ]
}

/// A value in place of another.
fn surprise(random: &mut Rng) -> Value {
    match random.usize(..12) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(i64::MIN),
        3 => json!(u64::MAX),
        4 => json!(-1.5),
        5 => json!(""),
        6 => json!("*.>.*"),
        7 => json!("{{tag(x)}}.$99999999999999999999.{{"),
        8 => json!([]),
        9 => json!({}),
        10 => json!("\u{1f600}".repeat(random.usize(..50))),
        _ => json!([null, {"a": []}, "x", -1]),
    }
}

/// Changes one thing somewhere in a value.
fn change(random: &mut Rng, value: &mut Value) {
    let goes_on = random.u8(..4) > 0;
    match value {
        Value::Object(fields) if goes_on && !fields.is_empty() => {
            let index = random.usize(..fields.len());
            if random.u8(..8) == 0 {
                let name = fields.keys().nth(index).expect("it is there").clone();
                let field = fields.remove(&name).expect("it is there");
                fields.insert(name.to_uppercase(), field);
            } else if let Some(field) = fields.values_mut().nth(index) {
                change(random, field);
            }
        }
        Value::Array(list) if goes_on && !list.is_empty() => {
            let index = random.usize(..list.len());
            if random.bool() {
                list.push(list[index].clone());
            }
            change(random, &mut list[index]);
        }
        _ => *value = surprise(random),
    }
}

/// Examines one input.
pub fn check(random: &mut Rng) {
    let seeds = seeds();
    let mut claims = seeds[random.usize(..seeds.len())].clone();
    for _ in 0..random.usize(..4) {
        change(random, &mut claims);
    }
    let kind = [KeyPairType::Account, KeyPairType::Operator, KeyPairType::User];
    let issuer = pair(kind[random.usize(..kind.len())].clone());
    if claims.is_object() && random.u8(..8) > 0 {
        claims["iss"] = issuer.public_key().into();
    }
    let text = mint(&claims, &issuer, random.bool());
    examine(&text);
    let mut bytes = text.into_bytes();
    for _ in 0..1 + random.usize(..3) {
        let place = random.usize(..bytes.len());
        bytes[place] = random.u8(b' '..0x7f);
    }
    bytes.truncate(random.usize(..=bytes.len()));
    examine(&String::from_utf8_lossy(&bytes));
}

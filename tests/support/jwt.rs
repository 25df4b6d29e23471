//! Operators, accounts and users of operator mode, made from fixed seeds.

use data_encoding::BASE64URL_NOPAD;
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

/// Returns the pair whose seed is 32 bytes of `number`.
pub fn pair(kind: KeyPairType, number: u8) -> KeyPair {
    KeyPair::new_from_raw(kind, [number; 32]).expect("any bytes are a seed")
}

pub fn operator() -> KeyPair {
    pair(KeyPairType::Operator, 1)
}

pub fn account(number: u8) -> KeyPair {
    pair(KeyPairType::Account, number)
}

pub fn user(number: u8) -> KeyPair {
    pair(KeyPairType::User, number)
}

/// The number of the system account's pair.
pub const SYSTEM: u8 = 10;

/// Returns a JWT of these claims, signed by `issuer`, whose key becomes `iss`.
pub fn mint(mut claims: Value, issuer: &KeyPair) -> String {
    claims["iss"] = issuer.public_key().into();
    if claims.get("iat").is_none() {
        claims["iat"] = 1_700_000_000.into();
    }
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = issuer.sign(signed.as_bytes()).expect("the pair has a seed");
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// Returns the claims of an account without limits; `nats` has more of them.
pub fn account_claims(number: u8, name: &str, nats: Value) -> Value {
    let mut claims = json!({
        "sub": account(number).public_key(), "name": name, "jti": name,
        "nats": {
            "type": "account", "version": 2,
            "limits": {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
                "wildcards": true, "conn": -1, "leaf": -1},
        },
    });
    merge(&mut claims["nats"], nats);
    claims
}

/// Returns the claims of a user without limits; `nats` has more of them.
pub fn user_claims(number: u8, nats: Value) -> Value {
    let mut claims = json!({
        "sub": user(number).public_key(), "name": format!("user{number}"),
        "nats": {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1},
    });
    merge(&mut claims["nats"], nats);
    claims
}

/// Sets the fields of `more`, those of objects one by one; null removes.
pub fn merge(target: &mut Value, more: Value) {
    let (Value::Object(target), Value::Object(more)) = (target, more) else { return };
    for (name, value) in more {
        match (target.get_mut(&name), &value) {
            (_, Value::Null) => {
                target.remove(&name);
            }
            (Some(known @ Value::Object(_)), Value::Object(_)) => merge(known, value),
            _ => {
                target.insert(name, value);
            }
        }
    }
}

/// Returns a configuration with an operator and these accounts in memory, among them the system
/// account.
pub fn memory_config(accounts: &[Value], more: &str) -> String {
    let system = account_claims(SYSTEM, "SYS", json!({}));
    let key = account(SYSTEM).public_key();
    let operator_jwt = mint(
        json!({"sub": operator().public_key(), "name": "O",
            "nats": {"type": "operator", "version": 2, "system_account": key}}),
        &operator(),
    );
    let mut preloads = String::new();
    for claims in accounts.iter().chain([&system]) {
        let name = claims["sub"].as_str().expect("it has one");
        preloads += &format!("  {name}: {}\n", mint(claims.clone(), &operator()));
    }
    format!(
        "operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{\n{preloads}}}\n{more}\n"
    )
}

/// Returns a CONNECT with a JWT, and the signature of the nonce by a pair, if there is one.
pub fn connect(jwt: &str, nonce: &str, signer: Option<&KeyPair>) -> String {
    let signature = signer.map(|pair| {
        BASE64URL_NOPAD.encode(&pair.sign(nonce.as_bytes()).expect("the pair has a seed"))
    });
    let signature = signature.unwrap_or_default();
    let json = json!({"verbose": false, "pedantic": false, "protocol": 1, "headers": true,
        "no_responders": true, "jwt": jwt, "sig": signature});
    format!("CONNECT {json}\r\n")
}

/// Returns the nonce in a line of INFO.
pub fn nonce(info: &[u8]) -> String {
    let json = info.strip_prefix(b"INFO ").expect("a line of INFO");
    let info: Value = serde_json::from_slice(json).expect("INFO has JSON");
    info["nonce"].as_str().expect("there is a nonce").to_owned()
}

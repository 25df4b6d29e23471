//! `verify_and_map`: finds the user that a client's certificate stands for.
//!
//! Names are tried in this order: e-mail addresses, DNS names and URIs of the certificate, each as
//! a user name; then the subject as a distinguished name, first with its parts in the user's order,
//! then in any order; then the subject in two spellings of nats-server's own. A user whose
//! connection types exclude this connection is passed over. Source of the behaviour: nats-server
//! server/auth.go (checkClientTLSCertSubject) and internal/ldap. Stricter than nats-server: a user
//! name that is an incomplete or empty distinguished name never matches as one.

use super::certificate::{Attribute, CertificateNames};
use crate::protocol::nats::error::quoted;

/// OID of the domain component attribute.
const DOMAIN_COMPONENT: &str = "0.9.2342.19200300.100.1.25";

/// Names of attribute types by OID, as in RFC 2253 and nats-server. In the order in which
/// nats-server spells a subject: that of Go 1.26, with which it is built (crypto/x509/pkix
/// ToRDNSequence).
const ATTRIBUTE_NAMES: [(&str, &str); 9] = [
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.3", "CN"),
    ("2.5.4.11", "OU"),
    ("2.5.4.10", "O"),
    ("2.5.4.17", "POSTALCODE"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.6", "C"),
];

/// A distinguished name: its relative names, the most specific first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DistinguishedName {
    relative_names: Vec<RelativeName>,
}

/// One or more attributes that count as one part; their order has no meaning.
#[derive(Clone, Debug, Default)]
struct RelativeName {
    attributes: Vec<(String, Vec<u8>)>,
}

impl PartialEq for RelativeName {
    fn eq(&self, other: &Self) -> bool {
        let within = |left: &Self, right: &Self| {
            left.attributes.iter().all(|(name, value)| {
                right.attributes.iter().any(|(other_name, other_value)| {
                    name.eq_ignore_ascii_case(other_name) && value == other_value
                })
            })
        };
        self.attributes.len() == other.attributes.len()
            && within(self, other)
            && within(other, self)
    }
}

impl Eq for RelativeName {}

impl DistinguishedName {
    /// Parses RFC 4514 text such as `CN=a,OU=b+L=c,O=d`. None if the text is something else, as
    /// most user names are.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut relative_names = Vec::new();
        let mut relative_name = RelativeName::default();
        let mut name: Option<String> = None;
        let mut part = Part::default();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => part.push_escaped(read_escape(&mut bytes)?),
                b'=' => {
                    // A second one would have to be escaped; BER values (`=#...`) are not read.
                    if name.is_some() || bytes.clone().next() == Some(b'#') {
                        return None;
                    }
                    name = Some(String::from_utf8(part.take()).ok()?);
                }
                b',' | b'+' => {
                    let attribute = (name.take().filter(|name| !name.is_empty())?, part.take());
                    relative_name.attributes.push(attribute);
                    if byte == b',' {
                        relative_names.push(std::mem::take(&mut relative_name));
                    }
                }
                other => part.push(other),
            }
        }
        let value = part.take();
        if value.is_empty() {
            return None;
        }
        relative_name.attributes.push((name.filter(|name| !name.is_empty())?, value));
        relative_names.push(relative_name);
        Some(Self { relative_names })
    }

    /// Converts the subject of a certificate, which is stored with the most general part first.
    /// None if it has an attribute without a name or a value that is not text.
    fn of_subject(subject: &[Vec<Attribute>]) -> Option<Self> {
        let mut relative_names = Vec::new();
        for stored in subject.iter().rev().filter(|stored| !stored.is_empty()) {
            let mut relative_name = RelativeName::default();
            for attribute in stored.iter().rev() {
                let name = attribute_name(&attribute.oid)?;
                let value = attribute.value.as_ref()?;
                relative_name.attributes.push((name.to_owned(), value.as_bytes().to_vec()));
            }
            relative_names.push(relative_name);
        }
        (!relative_names.is_empty()).then_some(Self { relative_names })
    }

    /// Returns true if both have the same parts, in any order.
    fn same_parts(&self, other: &Self) -> bool {
        if self.relative_names.len() != other.relative_names.len() {
            return false;
        }
        let mut used = vec![false; other.relative_names.len()];
        self.relative_names.iter().all(|wanted| {
            let free = other
                .relative_names
                .iter()
                .enumerate()
                .position(|(index, candidate)| !used[index] && candidate == wanted);
            free.is_some_and(|index| {
                used[index] = true;
                true
            })
        })
    }
}

/// Text between separators; unescaped blanks at both ends do not count.
#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    trailing_blank_count: usize,
}

impl Part {
    fn push(&mut self, byte: u8) {
        if byte == b' ' {
            if self.bytes.is_empty() {
                return;
            }
            self.trailing_blank_count += 1;
        } else {
            self.trailing_blank_count = 0;
        }
        self.bytes.push(byte);
    }

    fn push_escaped(&mut self, byte: u8) {
        self.trailing_blank_count = 0;
        self.bytes.push(byte);
    }

    fn take(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.truncate(bytes.len() - self.trailing_blank_count);
        self.trailing_blank_count = 0;
        bytes
    }
}

/// Decodes the escape after a backslash to its byte.
fn read_escape(bytes: &mut std::str::Bytes<'_>) -> Option<u8> {
    let first = bytes.next()?;
    if b" \"#+,;<=>\\".contains(&first) {
        return Some(first);
    }
    let high = char::from(first).to_digit(16)?;
    let low = char::from(bytes.next()?).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

fn attribute_name(oid: &str) -> Option<&'static str> {
    if oid == DOMAIN_COMPONENT {
        return Some("DC");
    }
    ATTRIBUTE_NAMES.iter().find(|(known, _)| *known == oid).map(|(_, name)| *name)
}

/// Finds the users that a certificate may stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct CertificateMap {
    /// User names that are distinguished names, in the order of the file.
    names: Vec<(usize, DistinguishedName)>,
}

impl CertificateMap {
    pub(crate) fn insert(&mut self, user_index: usize, user_name: &str) {
        if let Some(name) = DistinguishedName::parse(user_name) {
            self.names.push((user_index, name));
        }
    }

    /// Finds a certificate's user, and by what. `by_name` looks up a user by name, if that user may
    /// connect in this way; `allowed` says whether a user found here may. What did not lead to a
    /// user is added to `lines`, in the words of nats-server's debug log.
    pub(crate) fn find(
        &self,
        certificate: &CertificateNames,
        by_name: impl Fn(&str) -> Option<usize>,
        allowed: impl Fn(usize) -> bool,
        lines: &mut Vec<String>,
    ) -> Option<(usize, &'static str)> {
        let CertificateNames { emails, dns_names, uris, subject } = certificate;
        let non_empty = |name: &String| if name.is_empty() { None } else { by_name(name) };
        for (names, way) in [
            (emails, "email found in cert"),
            (dns_names, "SAN found in cert"),
            (uris, "URI found in cert"),
        ] {
            if let Some(found) = names.iter().find_map(non_empty) {
                return Some((found, way));
            }
        }
        let spelled = spell_subject(subject);
        let shown = |name: &str| quoted(name.as_bytes());
        if let Some(wanted) = DistinguishedName::of_subject(subject) {
            let candidates = || self.names.iter().filter(|(user_index, _)| allowed(*user_index));
            let found = candidates()
                .find(|(_, name)| *name == wanted)
                .or_else(|| candidates().find(|(_, name)| name.same_parts(&wanted)));
            if let Some((user_index, _)) = found {
                return Some((*user_index, "DistinguishedNameMatch"));
            }
            let name = shown(&spelled);
            lines.push(format!("DistinguishedNameMatch could not be used for auth [{name}]"));
        }
        let domain = spell_domain(subject);
        if !domain.is_empty() {
            let whole = format!("{spelled},{domain}");
            if let Some(found) = non_empty(&whole) {
                return Some((found, "RDNSequence"));
            }
            lines.push(format!("RDNSequence could not be used for auth [{}]", shown(&whole)));
        }
        if let Some(found) = non_empty(&spelled) {
            return Some((found, "certificate subject"));
        }
        lines.push(format!("User in cert [{}], not found", shown(&spelled)));
        None
    }
}

/// Spells a subject as nats-server does for monitoring: known types in a fixed order, values of one
/// type joined by `+`; then unknown types by their numbers, with their values in DER. Source: Go
/// crypto/x509/pkix Name.String.
pub(crate) fn subject_text(subject: &[Vec<Attribute>]) -> String {
    let mut parts = Vec::new();
    let known = spell_subject(subject);
    if !known.is_empty() {
        parts.push(known);
    }
    let is_known = |oid: &str| ATTRIBUTE_NAMES.iter().any(|(known, _)| *known == oid);
    for Attribute { oid, value } in subject.iter().flatten().rev() {
        if let Some(value) = value.as_ref().filter(|_| !is_known(oid)) {
            let value = data_encoding::HEXLOWER.encode(&der_text(value));
            parts.push(format!("{oid}=#{value}"));
        }
    }
    parts.join(",")
}

/// Encodes a text in DER, with the narrowest type that Go would choose.
fn der_text(value: &str) -> Vec<u8> {
    const PRINTABLE_STRING: u8 = 0x13;
    const UTF8_STRING: u8 = 0x0c;
    let is_printable = |byte: u8| byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte);
    let is_narrow = value.bytes().all(is_printable);
    let mut der = vec![if is_narrow { PRINTABLE_STRING } else { UTF8_STRING }];
    let size = value.len().to_be_bytes();
    let size = &size[size.iter().take_while(|byte| **byte == 0).count()..];
    match size {
        [] => der.push(0),
        [short @ 0..0x80] => der.push(*short),
        long => {
            der.push(0x80 | long.len() as u8);
            der.extend_from_slice(long);
        }
    }
    der.extend_from_slice(value.as_bytes());
    der
}

/// Spells a subject as nats-server does without domain components: types in a fixed order, values
/// of one type joined by `+`; unknown types are left out.
fn spell_subject(subject: &[Vec<Attribute>]) -> String {
    let mut parts = Vec::new();
    for (oid, name) in ATTRIBUTE_NAMES {
        let mut values: Vec<&str> = subject
            .iter()
            .flatten()
            .filter(|attribute| attribute.oid == oid)
            .filter_map(|attribute| attribute.value.as_deref())
            .collect();
        // Go keeps one value of these two types, the last, and ignores an empty one.
        if matches!(name, "CN" | "SERIALNUMBER") {
            values = values.pop().filter(|last| !last.is_empty()).into_iter().collect();
        }
        if values.is_empty() {
            continue;
        }
        let spelled: Vec<String> =
            values.iter().map(|value| format!("{name}={}", escape(value))).collect();
        parts.push(spelled.join("+"));
    }
    parts.join(",")
}

fn spell_domain(subject: &[Vec<Attribute>]) -> String {
    let components: Vec<String> = subject
        .iter()
        .flatten()
        .filter(|attribute| attribute.oid == DOMAIN_COMPONENT)
        .filter_map(|attribute| attribute.value.as_deref())
        .map(|value| format!("DC={value}"))
        .collect();
    components.join(",")
}

fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for (index, character) in value.char_indices() {
        let needs_escape = match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
            ' ' => index == 0 || index == value.len() - 1,
            '#' => index == 0,
            _ => false,
        };
        if needs_escape {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the object identifier of an attribute type.
    fn oid_of(name: &str) -> Option<&'static str> {
        if name == "DC" {
            return Some(DOMAIN_COMPONENT);
        }
        ATTRIBUTE_NAMES.iter().find(|(_, known)| *known == name).map(|(oid, _)| *oid)
    }

    /// Returns a subject in a certificate's order: `O=x,OU=a+OU=b,CN=y`, most general first.
    fn subject(text: &str) -> Vec<Vec<Attribute>> {
        let attribute = |text: &str| {
            let (name, value) = text.split_once('=').expect("name=value");
            let oid = oid_of(name).unwrap_or(name).to_owned();
            Attribute { oid, value: Some(value.to_owned()) }
        };
        text.split(',').map(|part| part.split('+').map(attribute).collect()).collect()
    }

    /// Returns the user that a certificate maps to.
    fn find(users: &[&str], certificate: &CertificateNames) -> Option<String> {
        let mut map = CertificateMap::default();
        for (index, user) in users.iter().enumerate() {
            map.insert(index, user);
        }
        let by_name = |name: &str| users.iter().position(|user| *user == name);
        let found = map.find(certificate, by_name, |_| true, &mut Vec::new());
        found.map(|(index, _)| users[index].to_owned())
    }

    /// The words are those that nats-server 2.15.3 has in its debug log.
    #[test]
    fn what_led_to_a_user_is_named_and_so_is_what_did_not() {
        let find = |user: &str, certificate: &CertificateNames| {
            let mut map = CertificateMap::default();
            map.insert(0, user);
            let by_name = |name: &str| (name == user).then_some(0);
            let mut lines = Vec::new();
            let way = map.find(certificate, by_name, |_| true, &mut lines).map(|found| found.1);
            (way, lines)
        };
        let subject = with_subject("DC=com,DC=acme,O=Acme,CN=bob");
        let certificate = CertificateNames {
            emails: vec!["bob@acme.com".into()],
            dns_names: vec!["bob.acme.com".into()],
            uris: vec!["spiffe://acme/bob".into()],
            ..subject
        };
        let unmatched = r#"DistinguishedNameMatch could not be used for auth ["CN=bob,O=Acme"]"#;
        let without_domain =
            r#"RDNSequence could not be used for auth ["CN=bob,O=Acme,DC=com,DC=acme"]"#;
        for (user, way, lines) in [
            ("bob@acme.com", Some("email found in cert"), vec![]),
            ("bob.acme.com", Some("SAN found in cert"), vec![]),
            ("spiffe://acme/bob", Some("URI found in cert"), vec![]),
            ("CN=bob,O=Acme,DC=acme,DC=com", Some("DistinguishedNameMatch"), vec![]),
            ("CN=bob,O=Acme", Some("certificate subject"), vec![unmatched, without_domain]),
            (
                "eve",
                None,
                vec![unmatched, without_domain, r#"User in cert ["CN=bob,O=Acme"], not found"#],
            ),
        ] {
            let found = find(user, &certificate);
            assert_eq!(found.0, way, "{user}: {:?}", found.1);
            assert_eq!(found.1, lines, "{user}");
        }
    }

    fn with_subject(text: &str) -> CertificateNames {
        CertificateNames { subject: subject(text), ..CertificateNames::default() }
    }

    /// Expected texts are the output of Go 1.26 for certificates with these subjects.
    #[test]
    fn subjects_are_spelled_as_go_does_for_monitoring() {
        for (stored, spelled) in [
            ("CN=joe", "CN=joe"),
            ("O=acme,OU=dev,OU=ops,CN=joe", "CN=joe,OU=dev+OU=ops,O=acme"),
            ("DC=com,DC=acme,CN=joe", SUBJECT_WITH_DOMAIN),
            ("C=US,ST=there,L=here,STREET=x,POSTALCODE=1,O=acme,OU=dev,CN=joe", EVERY_TYPE),
            ("CN=j;e <#>", r"CN=j\;e \<#\>"),
            ("1.2.840.113549.1.9.1=joe@acme.com", EMAIL_ALONE),
        ] {
            assert_eq!(subject_text(&subject(stored)), spelled, "{stored}");
        }
        assert_eq!(subject_text(&[]), "");
        assert_eq!(der_text(""), [0x13, 0]);
        assert_eq!(der_text(&"é".repeat(64))[..3], [0x0c, 0x81, 0x80]);
        assert_eq!(der_text(&"a".repeat(127))[..2], [0x13, 0x7f]);
        assert_eq!(der_text(&"a".repeat(300))[..4], [0x13, 0x82, 0x01, 0x2c]);
    }

    const SUBJECT_WITH_DOMAIN: &str = "CN=joe,0.9.2342.19200300.100.1.25=#130461636d65,\
        0.9.2342.19200300.100.1.25=#1303636f6d";
    const EVERY_TYPE: &str = "CN=joe,OU=dev,O=acme,POSTALCODE=1,STREET=x,L=here,ST=there,C=US";
    const EMAIL_ALONE: &str = "1.2.840.113549.1.9.1=#0c0c6a6f654061636d652e636f6d";

    #[test]
    fn distinguished_names_match_by_parts() {
        for (stored, user, matches) in [
            ("O=acme,OU=dev,CN=joe", "CN=joe,OU=dev,O=acme", true),
            ("O=acme,OU=dev,CN=joe", "cn=joe, ou=dev , o=acme", true),
            ("O=acme,OU=dev,CN=joe", "O=acme,OU=dev,CN=joe", true),
            ("O=acme,OU=dev,CN=joe", "CN=Joe,OU=dev,O=acme", false),
            ("O=acme,OU=dev,CN=joe", "CN=joe,OU=dev", false),
            ("O=acme,CN=joe", "CN=joe,OU=dev,O=acme", false),
            ("O=acme,OU=dev,OU=ops,CN=joe", "CN=joe,OU=dev,OU=ops,O=acme", true),
            ("O=acme,OU=dev,OU=ops,CN=joe", "CN=joe,OU=dev,OU=dev,O=acme", false),
            ("O=acme,OU=dev,OU=dev,CN=joe", "CN=joe,OU=dev,OU=ops,O=acme", false),
            ("O=acme,OU=dev+OU=ops,CN=joe", "CN=joe,OU=ops+OU=dev,O=acme", true),
            // As a distinguished name, one part of two attributes is not two parts.
            ("DC=org,OU=dev+OU=ops,CN=joe", "CN=joe,OU=ops,OU=dev,DC=org", false),
            ("DC=com,DC=acme,CN=joe", "CN=joe,DC=acme,DC=com", true),
            ("DC=com,DC=acme,CN=joe", "CN=joe,DC=com,DC=acme", true),
            ("DC=com,DC=acme,CN=joe", "CN=joe,DC=acme", false),
            ("O=acme,CN=joe", "CN=joe,O=acme,", false),
            ("O=acme,CN=joe", "CN=joe,O=", false),
            ("O=acme,CN=joe", "", false),
            ("O=acme,CN=joe", "joe", false),
            ("O=a b,CN=joe", "CN=joe,O=a b", true),
            ("O=a b ,CN=joe", "CN=joe,O=a b\\ ", true),
            ("O=a b,CN=joe", "CN=joe,O=a\\20b", true),
            // An attribute without a name here prevents a match, except for the spellings, which
            // leave it out.
            ("1.2.840.113549.1.9.1=j@x,O=acme,CN=joe", "CN=joe,O=acme", true),
            ("1.2.840.113549.1.9.1=j@x,O=acme,CN=joe", "O=acme,CN=joe", false),
        ] {
            let found = find(&[user], &with_subject(stored));
            assert_eq!(found.is_some(), matches, "{stored} / {user}");
        }
    }

    #[test]
    fn values_with_special_characters_need_their_escape() {
        let certificate = CertificateNames {
            subject: vec![
                vec![Attribute { oid: "2.5.4.10".into(), value: Some("Acme, Inc.".into()) }],
                vec![Attribute { oid: "2.5.4.3".into(), value: Some("a+b=c".into()) }],
            ],
            ..CertificateNames::default()
        };
        assert!(find(&[r"CN=a\+b\=c,O=Acme\, Inc."], &certificate).is_some());
        assert!(find(&[r"O=Acme\2C Inc.,CN=a\2bb\3dc"], &certificate).is_some());
        assert!(find(&["CN=a+b=c,O=Acme, Inc."], &certificate).is_none());
        // The spelling without the escape of `=` is nats-server's second way.
        assert!(find(&[r"CN=a\+b=c,O=Acme\, Inc."], &certificate).is_some());
    }

    #[test]
    fn malformed_distinguished_names_are_none() {
        for bad in [
            "", "a", "=", "=a", "CN=", "CN=a,", "CN=a,b", "CN=#04", "CN=a\\", "CN=a\\4",
            "CN=a\\zz", ",", "+", "CN=a=b", "CN=a,=b", "CN=a+",
        ] {
            assert_eq!(DistinguishedName::parse(bad), None, "{bad}");
        }
        assert!(DistinguishedName::parse("CN=").is_none());
        assert!(DistinguishedName::parse("CN=,O=a").is_some(), "only the last value must be there");
    }

    #[test]
    fn alternative_names_come_before_the_subject_in_their_order() {
        let certificate = CertificateNames {
            emails: vec!["joe@acme.com".into()],
            dns_names: vec!["joe.acme.com".into()],
            uris: vec!["spiffe://acme/joe".into()],
            subject: subject("O=acme,CN=joe"),
        };
        let mut users = vec!["CN=joe,O=acme", "spiffe://acme/joe", "joe.acme.com", "joe@acme.com"];
        while let Some(expected) = users.last() {
            assert_eq!(find(&users, &certificate).as_deref(), Some(*expected));
            users.pop();
        }
        assert_eq!(find(&["other"], &certificate), None);
    }

    #[test]
    fn the_exact_order_is_preferred_to_another_order() {
        let certificate = with_subject("O=acme,OU=dev,CN=joe");
        let users = ["O=acme,CN=joe,OU=dev", "CN=joe,OU=dev,O=acme"];
        assert_eq!(find(&users, &certificate).as_deref(), Some(users[1]));
    }

    #[test]
    fn an_empty_subject_maps_to_nobody() {
        let users = ["", "CN=", ","];
        assert_eq!(find(&users, &CertificateNames::default()), None);
        let empty_names = CertificateNames {
            emails: vec![String::new()],
            subject: vec![vec![]],
            ..CertificateNames::default()
        };
        assert_eq!(find(&users, &empty_names), None);
    }

    #[test]
    fn users_that_may_not_connect_this_way_are_passed_over() {
        let mut map = CertificateMap::default();
        map.insert(0, "CN=joe,O=acme");
        map.insert(1, "O=acme,CN=joe");
        let certificate = with_subject("O=acme,CN=joe");
        let lines = &mut Vec::new();
        let found = map.find(&certificate, |_| None, |index| index == 1, lines);
        assert_eq!(found.map(|(index, _)| index), Some(1));
        assert_eq!(map.find(&certificate, |_| None, |_| false, lines), None);
    }

    #[test]
    fn a_subject_with_a_value_that_is_not_text_does_not_match_as_a_name() {
        let mut certificate = with_subject("O=acme,CN=joe");
        certificate.subject[0][0].value = None;
        assert_eq!(find(&["CN=joe,O=acme"], &certificate), None);
        assert_eq!(find(&["CN=joe,O="], &certificate), None);
        // nats-server's spelling leaves that part out.
        assert_eq!(find(&["CN=joe"], &certificate).as_deref(), Some("CN=joe"));
    }
}

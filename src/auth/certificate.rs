//! Reads facts that a certificate states about its owner and itself, with `x509-parser`.
//!
//! Callers pass certificates that TLS has already verified, or our own; nothing here verifies
//! anything. Unexpected contents give no names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

/// The names of a certificate's owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    pub emails: Vec<String>,
    pub dns_names: Vec<String>,
    pub uris: Vec<String>,
    /// Relative distinguished names in the certificate's order, the most general first.
    pub subject: Vec<Vec<Attribute>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Dotted decimal.
    pub oid: String,
    /// None = not text.
    pub value: Option<String>,
}

impl CertificateNames {
    /// Reads the names. None if the bytes are not an X.509 certificate.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let certificate = parse(der)?;
        let mut names =
            Self { subject: attributes(certificate.subject())?, ..CertificateNames::default() };
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(alternatives) => {
                    for name in &alternatives.general_names {
                        names.add(name)?;
                    }
                }
                ParsedExtension::ParseError { .. } => return None,
                _ => {}
            }
        }
        Some(names)
    }

    fn add(&mut self, name: &GeneralName<'_>) -> Option<()> {
        let (list, name) = match *name {
            GeneralName::RFC822Name(name) => (&mut self.emails, name),
            GeneralName::DNSName(name) => (&mut self.dns_names, name),
            GeneralName::URI(name) => (&mut self.uris, name),
            GeneralName::Invalid(..) => return None,
            _ => return Some(()),
        };
        list.push(name.is_ascii().then(|| name.to_owned())?);
        Some(())
    }
}

/// Parses the whole of `der` as a certificate. None if it is not one, or has bytes behind its end.
pub(crate) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then_some(certificate)
}

/// Returns the certificate's own subject. None if the bytes are not an X.509 certificate.
pub(crate) fn subject(der: &[u8]) -> Option<Vec<Vec<Attribute>>> {
    attributes(parse(der)?.subject())
}

/// Returns the end of a certificate's validity. None if the bytes are not an X.509 certificate, or
/// if that time is before 1970.
pub(crate) fn not_after(der: &[u8]) -> Option<SystemTime> {
    let seconds = parse(der)?.validity().not_after.timestamp();
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// Returns the relative distinguished names of `name` in its order. None if one has a malformed
/// object identifier.
pub(crate) fn attributes(name: &X509Name<'_>) -> Option<Vec<Vec<Attribute>>> {
    name.iter_rdn()
        .map(|relative_name| {
            relative_name
                .iter()
                .map(|attribute| {
                    let oid = dotted(attribute.attr_type().as_bytes())?;
                    Some(Attribute { oid, value: text(attribute.attr_value()) })
                })
                .collect()
        })
        .collect()
}

/// Returns an object identifier in dotted decimal. `asn1_rs` decodes the first two numbers from the
/// first byte alone, which is wrong from 2.48 on.
fn dotted(content: &[u8]) -> Option<String> {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number: u64 = 0;
    for (index, byte) in content.iter().enumerate() {
        number = number.checked_mul(128)? + u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                // The first two numbers are encoded as one.
                let first = (number / 40).min(2);
                numbers.push(first);
                number -= first * 40;
            }
            numbers.push(number);
            number = 0;
        } else if index + 1 == content.len() {
            return None;
        }
    }
    let parts: Vec<String> = numbers.iter().map(u64::to_string).collect();
    (!parts.is_empty()).then(|| parts.join("."))
}

fn text(value: &Any<'_>) -> Option<String> {
    let ascii = |bytes: &[u8]| bytes.is_ascii().then(|| String::from_utf8(bytes.to_vec()).ok())?;
    match value.tag() {
        Tag::Utf8String | Tag::T61String => String::from_utf8(value.data.to_vec()).ok(),
        Tag::NumericString | Tag::PrintableString | Tag::Ia5String => ascii(value.data),
        Tag::BmpString => {
            let (pairs, []) = value.data.as_chunks::<2>() else { return None };
            let units: Vec<u16> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;

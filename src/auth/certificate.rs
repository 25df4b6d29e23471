//! The names in a client's certificate, subject and alternative names, and the end of any: read from DER.
//!
//! Only for certificates that TLS has already verified, or our own. Reads what it needs and nothing else: lengths are
//! checked against the bytes that are there, and whatever is not as expected gives no names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a certificate calls its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    pub emails: Vec<String>,
    pub dns_names: Vec<String>,
    pub uris: Vec<String>,
    /// Relative names in the certificate's order, the most general first.
    pub subject: Vec<Vec<Attribute>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Dotted decimal.
    pub oid: String,
    /// None = not a text.
    pub value: Option<String>,
}

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const NUMERIC_STRING: u8 = 0x12;
const PRINTABLE_STRING: u8 = 0x13;
const T61_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const BMP_STRING: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// Version of the certificate, in front of its serial number.
const EXPLICIT_VERSION: u8 = 0xa0;
const EXPLICIT_EXTENSIONS: u8 = 0xa3;
const SAN_EMAIL: u8 = 0x81;
const SAN_DNS_NAME: u8 = 0x82;
const SAN_URI: u8 = 0x86;

/// 2.5.29.17, subjectAltName.
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

impl CertificateNames {
    /// None when the bytes are no X.509 certificate.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let mut body = body_from_validity(der)?;
        let mut names = Self { subject: read_subject(&mut body)?, ..Self::default() };
        body.expect(SEQUENCE)?; // public key
        while let Some((tag, content)) = body.next() {
            if tag == EXPLICIT_EXTENSIONS {
                let mut extensions = Reader(Reader(content).expect(SEQUENCE)?);
                while let Some((_, extension)) = extensions.next() {
                    names.read_extension(extension)?;
                }
            }
        }
        Some(names)
    }

    fn read_extension(&mut self, extension: &[u8]) -> Option<()> {
        let mut fields = Reader(extension);
        if fields.expect(OBJECT_IDENTIFIER)? != SUBJECT_ALTERNATIVE_NAME {
            return Some(());
        }
        let (mut tag, mut content) = fields.next()?;
        if tag != OCTET_STRING {
            // That was whether the extension is critical.
            (tag, content) = fields.next()?;
        }
        if tag != OCTET_STRING {
            return None;
        }
        let mut general_names = Reader(Reader(content).expect(SEQUENCE)?);
        while let Some((tag, name)) = general_names.next() {
            let list = match tag {
                SAN_EMAIL => &mut self.emails,
                SAN_DNS_NAME => &mut self.dns_names,
                SAN_URI => &mut self.uris,
                _ => continue,
            };
            list.push(ascii(name)?);
        }
        Some(())
    }
}

/// What a certificate calls its owner in the first place. None when the bytes are no X.509 certificate.
pub fn subject(der: &[u8]) -> Option<Vec<Vec<Attribute>>> {
    read_subject(&mut body_from_validity(der)?)
}

fn read_subject(body: &mut Reader<'_>) -> Option<Vec<Vec<Attribute>>> {
    body.expect(SEQUENCE)?; // validity
    read_name(body.expect(SEQUENCE)?)
}

fn read_name(name: &[u8]) -> Option<Vec<Vec<Attribute>>> {
    let mut relative_names = Vec::new();
    let mut parts = Reader(name);
    while !parts.0.is_empty() {
        let mut attributes = Reader(parts.expect(SET)?);
        let mut relative_name = Vec::new();
        while !attributes.0.is_empty() {
            let mut attribute = Reader(attributes.expect(SEQUENCE)?);
            let oid = dotted(attribute.expect(OBJECT_IDENTIFIER)?)?;
            let (tag, content) = attribute.next()?;
            relative_name.push(Attribute { oid, value: text(tag, content) });
        }
        relative_names.push(relative_name);
    }
    Some(relative_names)
}

fn text(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        UTF8_STRING | T61_STRING => String::from_utf8(content.to_vec()).ok(),
        NUMERIC_STRING | PRINTABLE_STRING | IA5_STRING => ascii(content),
        BMP_STRING => {
            let (pairs, []) = content.as_chunks::<2>() else { return None };
            let units: Vec<u16> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}

fn ascii(content: &[u8]) -> Option<String> {
    content.is_ascii().then(|| String::from_utf8(content.to_vec()).ok())?
}

/// An object identifier in dotted decimal.
fn dotted(content: &[u8]) -> Option<String> {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number: u64 = 0;
    for (index, byte) in content.iter().enumerate() {
        number = number.checked_mul(128)? + u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                // The first two numbers share one place.
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

/// What a certificate says of itself, from its validity on.
fn body_from_validity(der: &[u8]) -> Option<Reader<'_>> {
    let mut certificate = Reader(Reader(der).expect(SEQUENCE)?);
    let mut body = Reader(certificate.expect(SEQUENCE)?);
    if body.peek() == Some(EXPLICIT_VERSION) {
        body.next()?;
    }
    body.expect(INTEGER)?;
    body.expect(SEQUENCE)?; // signature algorithm
    body.expect(SEQUENCE)?; // issuer
    Some(body)
}

/// The last moment a certificate is good for. None when the bytes are no X.509 certificate, or when that
/// moment is before 1970.
pub fn not_after(der: &[u8]) -> Option<SystemTime> {
    let mut validity = Reader(body_from_validity(der)?.expect(SEQUENCE)?);
    validity.next()?;
    let (tag, text) = validity.next()?;
    let (year_size, text) = match tag {
        UTC_TIME => (2, text.strip_suffix(b"Z")?),
        GENERALIZED_TIME => (4, text.strip_suffix(b"Z")?),
        _ => return None,
    };
    if text.len() != year_size + 10 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number =
        |digits: &[u8]| digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let year = match number(&text[..year_size]) {
        year if year_size == 4 => year,
        // RFC 5280: two digits stand for 1950 to 2049.
        year if year < 50 => 2000 + year,
        year => 1900 + year,
    };
    let rest: Vec<u64> = text[year_size..].chunks(2).map(number).collect();
    let (month, day) = (rest[0], rest[1]);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    // Years begin in March, so that the day of a leap year is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    /// From March 1st of year 0 to 1970-01-01.
    const DAYS_TO_EPOCH: u64 = 719_468;
    let days = days.checked_sub(DAYS_TO_EPOCH)?;
    let seconds = days * 86_400 + rest[2] * 3600 + rest[3] * 60 + rest[4];
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// What is left of a run of DER values.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Tag and content of the next value. None at the end, and where a length is wrong.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, short_length], mut rest) = self.0.split_first_chunk()?;
        let length = if short_length < 0x80 {
            usize::from(short_length)
        } else {
            let length_size = usize::from(short_length & 0x7f);
            if !(1..=4).contains(&length_size) {
                return None;
            }
            let length_bytes = rest.get(..length_size)?;
            rest = &rest[length_size..];
            length_bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
        };
        let content = rest.get(..length)?;
        self.0 = &rest[length..];
        Some((tag, content))
    }

    fn expect(&mut self, expected: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == expected).map(|(_, content)| content)
    }
}

#[cfg(test)]
mod tests;

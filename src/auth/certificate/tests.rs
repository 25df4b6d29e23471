//! A certificate made with openssl, intact and damaged.

use super::*;

/// Self-signed, `openssl req -x509 -utf8` with the subject and names that the first test lists.
const CERTIFICATE: &str = "\
    308202c53082026ba00302010202140832fd49b9ecb4511c30f90fe383e2f7bfd27307300a06082a8648ce3d\
    04030230819f31133011060a0992268993f22c6401191603636f6d31143012060a0992268993f22c64011916\
    0461636d65310b300906035504061302555331133011060355040a0c0a41636d652c20496e632e310c300a06\
    0355040b0c03646576310c300a060355040b0c036f70733113301106035504030c0a4a6f6520576fc582656b\
    311f301d06092a864886f70d01090116107375626a6563744061636d652e636f6d3020170d32363131323330\
    35303730385a180f32313236313033303035303730385a30819f31133011060a0992268993f22c6401191603\
    636f6d31143012060a0992268993f22c640119160461636d65310b3009060355040613025553311330110603\
    55040a0c0a41636d652c20496e632e310c300a060355040b0c03646576310c300a060355040b0c036f707331\
    13301106035504030c0a4a6f6520576fc582656b311f301d06092a864886f70d01090116107375626a656374\
    4061636d652e636f6d3059301306072a8648ce3d020106082a8648ce3d0301070342000434f936a31d677e6d\
    3816203544d0287af2afe733dde25ca950eb5cef66c656080b217bc4220da1bc0b8366c2bf88340e049f0288\
    fb1de35eed236ba1ea43ef73a38180307e304f0603551d1104483046810c6a6f654061636d652e636f6d820c\
    6a6f652e61636d652e636f6d86117370696666653a2f2f61636d652f6a6f6587047f000001820f7365636f6e\
    642e61636d652e636f6d300c0603551d130101ff04023000301d0603551d0e04160414856adb336a04900ac5\
    341fd648f649c618c71061300a06082a8648ce3d040302034800304502205f2e4e56ea595ecb6b1e7b69222f\
    ba8509bb2afde77bfa357e12efaf2af98b4d022100c9506348b012ba48b65eee8dfd19b09423b2d837af614a\
    3c881d4c22c542706d\
";

fn certificate() -> Vec<u8> {
    data_encoding::HEXLOWER.decode(CERTIFICATE.as_bytes()).expect("the constant is hexadecimal")
}

#[test]
fn names_are_read_from_a_certificate() {
    let names = CertificateNames::from_der(&certificate()).expect("the certificate is whole");
    assert_eq!(names.emails, ["joe@acme.com"]);
    assert_eq!(names.dns_names, ["joe.acme.com", "second.acme.com"]);
    assert_eq!(names.uris, ["spiffe://acme/joe"]);
    let subject: Vec<(&str, &str)> = names
        .subject
        .iter()
        .flatten()
        .map(|attribute| (&*attribute.oid, attribute.value.as_deref().unwrap_or("no text")))
        .collect();
    assert_eq!(
        subject,
        [
            ("0.9.2342.19200300.100.1.25", "com"),
            ("0.9.2342.19200300.100.1.25", "acme"),
            ("2.5.4.6", "US"),
            ("2.5.4.10", "Acme, Inc."),
            ("2.5.4.11", "dev"),
            ("2.5.4.11", "ops"),
            ("2.5.4.3", "Joe Wołek"),
            ("1.2.840.113549.1.9.1", "subject@acme.com"),
        ]
    );
    assert!(names.subject.iter().all(|relative_name| relative_name.len() == 1));
}

#[test]
fn a_damaged_certificate_gives_no_names_or_other_names_but_no_panic() {
    let whole = certificate();
    for end in 0..whole.len() {
        assert_eq!(CertificateNames::from_der(&whole[..end]), None, "the first {end} bytes");
    }
    for index in 0..whole.len() {
        for value in [0, 1, 0x30, 0x7f, 0x80, 0x81, 0x84, 0x88, 0xff] {
            let mut damaged = whole.clone();
            damaged[index] = value;
            // Any answer is right, as long as nothing panics.
            let names = CertificateNames::from_der(&damaged);
            assert!(names.is_none_or(|names| names.subject.len() <= whole.len()));
        }
    }
}

#[test]
fn object_identifiers_are_read_in_full() {
    for (content, expected) in [
        (&[0x55, 0x04, 0x03][..], Some("2.5.4.3")),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01], Some("1.2.840.113549.1.9.1")),
        (&[0x88, 0x37], Some("2.999")),
        (&[0x55, 0x84], None),
        (&[], None),
        (&[0xff; 12], None),
    ] {
        assert_eq!(dotted(content).as_deref(), expected, "{content:?}");
    }
}

#[test]
fn text_is_read_by_its_type() {
    for (tag, content, expected) in [
        (Tag::Utf8String, "Wołek".as_bytes(), Some("Wołek")),
        (Tag::Utf8String, &[0xff], None),
        (Tag::PrintableString, b"Joe", Some("Joe")),
        (Tag::PrintableString, &[0xe9], None),
        (Tag::Ia5String, b"j@x", Some("j@x")),
        (Tag::BmpString, &[0, b'J', 1, 0x42], Some("Jł")),
        (Tag::BmpString, &[0, b'J', 1], None),
        (Tag::Integer, &[1], None),
    ] {
        let value = Any::from_tag_and_data(tag, content);
        assert_eq!(text(&value).as_deref(), expected, "{tag:?} {content:?}");
    }
}

#[test]
fn this_certificate_maps_to_the_users_that_nats_server_finds() {
    use crate::auth::tls_map::CertificateMap;
    let names = CertificateNames::from_der(&certificate()).expect("the certificate is whole");
    let without_email_attribute =
        CertificateNames { subject: names.subject[..7].to_vec(), ..CertificateNames::default() };
    for (certificate, user, expected) in [
        (&names, "joe@acme.com", true),
        (&names, "second.acme.com", true),
        (&names, "spiffe://acme/joe", true),
        (&names, "subject@acme.com", false),
        (&names, "127.0.0.1", false),
        // The e-mail attribute has no name there, so only nats-server's two spellings are left.
        (&names, r"CN=Joe Wołek,OU=dev+OU=ops,O=Acme\, Inc.,C=US", true),
        (&names, r"CN=Joe Wołek,OU=dev+OU=ops,O=Acme\, Inc.,C=US,DC=com,DC=acme", true),
        (&names, r"CN=Joe Wołek,OU=ops,OU=dev,O=Acme\, Inc.,C=US", false),
        (
            &names,
            r"emailAddress=subject@acme.com,CN=Joe Wołek,OU=ops,OU=dev,O=Acme\, Inc.,C=US,DC=acme,DC=com",
            false,
        ),
        (
            &without_email_attribute,
            r"CN=Joe Wołek,OU=ops,OU=dev,O=Acme\, Inc.,C=US,DC=acme,DC=com",
            true,
        ),
        (
            &without_email_attribute,
            r"DC=com,DC=acme,cn=Joe Wołek, OU=ops,OU=dev,O=Acme\2C Inc.,C=US",
            true,
        ),
        (
            &without_email_attribute,
            r"DC=com,DC=acme,cn=Joe Wołek, OU=ops,OU=dev+O=Acme\2C Inc.,C=US",
            false,
        ),
        (&without_email_attribute, r"CN=Joe Wołek,OU=dev+OU=ops,O=Acme\, Inc.,C=US", true),
    ] {
        let mut map = CertificateMap::default();
        map.insert(0, user);
        let by_name = |name: &str| (name == user).then_some(0);
        let found = map.find(certificate, by_name, |_| true, &mut Vec::new());
        assert_eq!(found.is_some(), expected, "{user}");
    }
}

#[test]
fn the_end_of_validity_is_read_in_both_notations() {
    let der = certificate();
    let seconds = |der: &[u8]| Some(not_after(der)?.duration_since(UNIX_EPOCH).ok()?.as_secs());
    // 2126-10-30T05:07:08Z
    assert_eq!(seconds(&der), Some(4_949_010_428));
    let with_end = |end: &[u8]| {
        let mut der = der.clone();
        let place = der.windows(2).position(|pair| pair == [0x18, 15]).unwrap();
        der.splice(place..place + 17, end.iter().copied());
        // Shortens the lengths around it: certificate and body (two bytes each), validity (one).
        let shorter = 17 - end.len();
        for at in [3, 7] {
            der[at] -= shorter as u8;
        }
        let validity = der.windows(4).position(|run| run == [0x30, 0x20, 0x17, 13]);
        der[validity.unwrap() + 1] -= shorter as u8;
        der
    };
    // 2000-02-29, 1999-12-31, 2049-12-31, each with a year of two digits.
    assert_eq!(seconds(&with_end(b"\x17\x0d000229000000Z")), Some(951_782_400));
    assert_eq!(seconds(&with_end(b"\x17\x0d991231235959Z")), Some(946_684_799));
    assert_eq!(seconds(&with_end(b"\x17\x0d491231235959Z")), Some(2_524_607_999));
    for nonsense in [
        b"\x17\x0d001329000000Z",
        b"\x17\x0d000200000000Z",
        b"\x17\x0d0002290000000",
        b"\x17\x0dabcdefghijklZ",
    ] {
        assert_eq!(seconds(&with_end(nonsense)), None);
    }
    assert_eq!(seconds(&with_end(b"\x17\x0d600101000000Z")), None, "before 1970");
    for size in 0..der.len() {
        // Whatever is cut off, nothing panics.
        let _ = not_after(&der[..size]);
    }
}

//! Ranges of addresses, such as `10.0.0.0/8`.

use std::net::IpAddr;

/// The addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    first: IpAddr,
    bits: u32,
}

impl Cidr {
    /// Parses `address/bits`; None if it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let first: IpAddr = address.parse().ok()?;
        let is_number = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits: u32 = bits.parse().ok().filter(|_| is_number)?;
        (bits <= width(first)).then_some(Self { first, bits })
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        width(address) == width(self.first)
            && high_bits(address, self.bits) == high_bits(self.first, self.bits)
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Returns the first `bits` of an address.
fn high_bits(address: IpAddr, bits: u32) -> u128 {
    let all = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    if bits == 0 { 0 } else { all >> (128 - bits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_a_range_if_it_begins_with_its_bits() {
        for (range, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("127.0.0.1/32", "127.0.0.1", true),
            ("127.0.0.1/32", "127.0.0.2", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ] {
            let range = Cidr::parse(range).expect(range);
            assert_eq!(range.contains(address.parse().unwrap()), expected, "{range:?} {address}");
        }
    }

    #[test]
    fn other_texts_are_no_ranges() {
        for bad in
            ["", "zz", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0/8", "1.2.3.4/+1"]
        {
            assert_eq!(Cidr::parse(bad), None, "{bad}");
        }
    }
}

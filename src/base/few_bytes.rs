//! Copies and comparisons of a few bytes, for which a library call costs more than the work itself.

/// Returns true if the two slices are equal. Quick up to 64 bytes.
#[inline(always)]
pub(crate) fn are_equal(left: &[u8], right: &[u8]) -> bool {
    let size = left.len();
    if size != right.len() {
        return false;
    }
    match size {
        0..8 => left.iter().zip(right).all(|(left, right)| left == right),
        8..=16 => ends_equal::<8>(left, right),
        17..=32 => ends_equal::<16>(left, right),
        33..=64 => ends_equal::<32>(left, right),
        _ => left == right,
    }
}

/// Returns true if the first and the last `N` bytes are equal; the two ranges may overlap.
#[inline(always)]
fn ends_equal<const N: usize>(left: &[u8], right: &[u8]) -> bool {
    left.first_chunk::<N>() == right.first_chunk::<N>()
        && left.last_chunk::<N>() == right.last_chunk::<N>()
}

/// Copies `from` to `to`. Quick up to 64 bytes.
///
/// # Panics
/// If the two differ in length.
#[inline(always)]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    assert_eq!(to.len(), from.len());
    match from.len() {
        0..8 => to.iter_mut().zip(from).for_each(|(to, from)| *to = *from),
        8..=16 => copy_ends::<8>(to, from),
        17..=32 => copy_ends::<16>(to, from),
        33..=64 => copy_ends::<32>(to, from),
        65..=128 => copy_ends::<64>(to, from),
        129..=256 => copy_ends::<128>(to, from),
        _ => to.copy_from_slice(from),
    }
}

/// Copies the first and the last `N` bytes; the two ranges may overlap.
#[inline(always)]
fn copy_ends<const N: usize>(to: &mut [u8], from: &[u8]) {
    if let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) {
        if let Some(place) = to.first_chunk_mut::<N>() {
            *place = *first;
        }
        if let Some(place) = to.last_chunk_mut::<N>() {
            *place = *last;
        }
    }
}

/// Appends both parts of each pair, `size` bytes in all. For short parts: their place in `out` is
/// zeroed first.
#[inline]
pub(crate) fn append_pairs<'a, H: AsRef<[u8]>>(
    out: &mut Vec<u8>,
    size: usize,
    pairs: impl Iterator<Item = (H, &'a [u8])>,
) {
    let start = out.len();
    out.resize(start + size, 0);
    let mut rest = &mut out[start..];
    for (first, second) in pairs {
        let (place, after) = rest.split_at_mut(first.as_ref().len());
        copy(place, first.as_ref());
        let (place, after) = after.split_at_mut(second.len());
        copy(place, second);
        rest = after;
    }
    debug_assert!(rest.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_and_compared_byte_by_byte() {
        for size in 0..200 {
            let from: Vec<u8> = (0..size).map(|index| (index % 251) as u8 + 1).collect();
            let mut to = vec![0; size];
            copy(&mut to, &from);
            assert_eq!(to, from);
            assert!(are_equal(&to, &from));
            assert!(!are_equal(&to, &[&from[..], b"x"].concat()));
            for index in 0..size {
                to[index] ^= 0x80;
                assert!(!are_equal(&to, &from), "{size} {index}");
                to[index] ^= 0x80;
            }
        }
    }
}

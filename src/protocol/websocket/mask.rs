//! The mask of a frame's payload: each byte is combined with one of the key's four, in turn.

/// Bytes combined at a time: as many as the compiler makes a few vector instructions of.
const LANE_BYTES: usize = 32;

/// Masks or unmasks in place. `phase` is the number of the payload's bytes before these.
pub(crate) fn apply(bytes: &mut [u8], key: [u8; 4], phase: usize) {
    let key: [u8; 4] = std::array::from_fn(|index| key[(phase + index) % 4]);
    let lane: [u8; LANE_BYTES] = std::array::from_fn(|index| key[index % 4]);
    let (lanes, rest) = bytes.as_chunks_mut::<LANE_BYTES>();
    for bytes in lanes {
        for (byte, mask) in bytes.iter_mut().zip(&lane) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in rest.iter_mut().zip(&lane) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6455, 5.3.
    fn apply_to_each(bytes: &mut [u8], key: [u8; 4], phase: usize) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte ^= key[(phase + index) % 4];
        }
    }

    #[test]
    fn lanes_and_single_bytes_agree_at_every_length_alignment_and_phase() {
        let mut random = fastrand::Rng::with_seed(6455);
        let plain: Vec<u8> = (0..320).map(|_| random.u8(..)).collect();
        for length in 0..=256 {
            for alignment in 0..LANE_BYTES {
                let (key, phase) = (random.u32(..).to_be_bytes(), random.usize(..9));
                let mut expected = plain.clone();
                apply_to_each(&mut expected[alignment..alignment + length], key, phase);
                let mut masked = plain.clone();
                apply(&mut masked[alignment..alignment + length], key, phase);
                assert_eq!(masked, expected, "length {length}, alignment {alignment}");
                apply(&mut masked[alignment..alignment + length], key, phase);
                assert_eq!(masked, plain);
            }
        }
    }
}

//! Filter, queue and sid of a subscription, one after the other: in place while they are short,
//! else in one allocation. There are millions of these.

/// Filter, queue and sid of a subscription.
pub(super) enum Names {
    Inline {
        filter_len: u8,
        queue_len: u8,
        len: u8,
        bytes: [u8; INLINE_BYTES_MAX],
    },
    /// The length of the queue's name comes first.
    Boxed {
        filter_len: u32,
        bytes: Box<[u8]>,
    },
}

const INLINE_BYTES_MAX: usize = 20;

const QUEUE_LEN_BYTES: usize = size_of::<u32>();

impl Names {
    pub(super) fn new(filter: &[u8], queue: &[u8], sid: &[u8]) -> Self {
        let len = filter.len() + queue.len() + sid.len();
        if len <= INLINE_BYTES_MAX {
            let mut bytes = [0; INLINE_BYTES_MAX];
            let (filter_part, rest) = bytes.split_at_mut(filter.len());
            let (queue_part, rest) = rest.split_at_mut(queue.len());
            filter_part.copy_from_slice(filter);
            queue_part.copy_from_slice(queue);
            rest[..sid.len()].copy_from_slice(sid);
            let [filter_len, queue_len, len] =
                [filter.len(), queue.len(), len].map(|len| len as u8);
            return Self::Inline { filter_len, queue_len, len, bytes };
        }
        let length = |text: &[u8]| u32::try_from(text.len()).expect("bounded by the control line");
        let mut bytes = Vec::with_capacity(QUEUE_LEN_BYTES + len);
        bytes.extend_from_slice(&length(queue).to_ne_bytes());
        bytes.extend_from_slice(filter);
        bytes.extend_from_slice(queue);
        bytes.extend_from_slice(sid);
        Self::Boxed { filter_len: length(filter), bytes: bytes.into_boxed_slice() }
    }

    /// All of it, and how much of it is filter and queue.
    #[inline]
    fn parts(&self) -> (&[u8], usize, usize) {
        match self {
            Self::Inline { filter_len, queue_len, len, bytes } => {
                (&bytes[..usize::from(*len)], usize::from(*filter_len), usize::from(*queue_len))
            }
            Self::Boxed { filter_len, bytes } => {
                let (queue_len, text) =
                    bytes.split_first_chunk::<QUEUE_LEN_BYTES>().expect("it begins with it");
                (text, *filter_len as usize, u32::from_ne_bytes(*queue_len) as usize)
            }
        }
    }

    #[inline]
    pub(super) fn filter(&self) -> &[u8] {
        let (text, filter_len, _) = self.parts();
        &text[..filter_len]
    }

    #[inline]
    pub(super) fn queue(&self) -> &[u8] {
        let (text, filter_len, queue_len) = self.parts();
        &text[filter_len..][..queue_len]
    }

    #[inline]
    pub(super) fn sid(&self) -> &[u8] {
        let (text, filter_len, queue_len) = self.parts();
        &text[filter_len + queue_len..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_queue_and_sid_come_back_whatever_their_lengths() {
        let text = vec![b'x'; 300];
        for total in 0..=INLINE_BYTES_MAX + 4 {
            for queue_len in 0..=total {
                for sid_len in 0..=total - queue_len {
                    let filter = &text[..total - queue_len - sid_len];
                    let (queue, sid) = (vec![b'q'; queue_len], vec![b's'; sid_len]);
                    let names = Names::new(filter, &queue, &sid);
                    assert_eq!(names.filter(), filter);
                    assert_eq!(names.queue(), queue);
                    assert_eq!(names.sid(), sid);
                }
            }
        }
        let names = Names::new(&text, &text, &text);
        assert_eq!(names.filter(), text);
        assert_eq!(names.queue(), text);
        assert_eq!(names.sid(), text);
    }
}

//! Messages on their way through the server: borrowed slices of a read buffer or of a lane's batch.

/// A published message. Nothing is owned: it lives for one call of the router.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub subject: &'a [u8],
    /// Empty = none.
    pub reply: &'a [u8],
    /// The header block as it came, `NATS/1.0` and blank line included; empty = none.
    pub headers: &'a [u8],
    /// Headers (if any) and payload, contiguous: what MSG or HMSG carries.
    pub body: &'a [u8],
    /// The sizes of headers and body as their publisher wrote them: nats-server hands them on unchanged,
    /// leading zeros and all. Without headers the first is empty.
    pub header_size_text: &'a [u8],
    pub size_text: &'a [u8],
    /// What follows the subject and a blank, to the end of the message: reply, size, body and line ends, as
    /// a MSG has them after its sid. Empty where it does not lie in one piece.
    pub tail: &'a [u8],
}

impl<'a> Message<'a> {
    pub fn payload(&self) -> &'a [u8] {
        &self.body[self.headers.len()..]
    }
}

/// Where one message of a run lies.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    start: u32,
    size: u32,
    size_text_size: u32,
}

impl Tail {
    /// Of a message whose tail begins at `start` of the input: bytes of the tail, and of its size.
    #[inline]
    pub fn new(start: usize, size: usize, size_text_size: usize) -> Self {
        Self { start: start as u32, size: size as u32, size_text_size: size_text_size as u32 }
    }

    /// Where it begins.
    #[inline]
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// Of a message of the same size that lies elsewhere.
    #[inline]
    pub fn at(self, start: usize) -> Self {
        Self { start: start as u32, ..self }
    }
}

/// Messages of one publisher in a row that differ in their payload only: same subject, no reply, no headers. What is
/// decided about one of them holds for all.
#[derive(Clone, Copy, Debug)]
pub struct MessageRun<'a> {
    pub subject: &'a [u8],
    input: &'a [u8],
    tails: &'a [Tail],
    tail_bytes: usize,
    body_bytes: usize,
}

impl<'a> MessageRun<'a> {
    /// The messages whose tails lie in `input`.
    #[inline]
    pub fn new(subject: &'a [u8], input: &'a [u8], tails: &'a [Tail]) -> Self {
        let (mut tail_bytes, mut text_bytes) = (0, 0);
        for tail in tails {
            tail_bytes += tail.size as usize;
            text_bytes += tail.size_text_size as usize;
        }
        let body_bytes = tail_bytes - text_bytes - tails.len() * 2 * b"\r\n".len();
        Self { subject, input, tails, tail_bytes, body_bytes }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.tails.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.tails.is_empty()
    }

    /// Bytes of all tails.
    #[inline]
    pub fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// Bytes of all payloads.
    #[inline]
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// What follows the subject and a blank in each message: see `Message::tail`.
    #[inline]
    pub fn tails(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let input = self.input;
        self.tails.iter().map(move |tail| &input[tail.start as usize..][..tail.size as usize])
    }

    /// The tails, and how many bytes of each are its size.
    #[inline]
    pub fn places(&self) -> impl Iterator<Item = (&'a [u8], usize)> + use<'a> {
        self.tails().zip(self.tails).map(|(tail, place)| (tail, place.size_text_size as usize))
    }

    /// Its messages one by one.
    #[inline]
    pub fn messages(&self) -> impl Iterator<Item = Message<'a>> + use<'a> {
        let subject = self.subject;
        self.places().map(move |(tail, size_text_size)| {
            let (size_text, rest) = tail.split_at(size_text_size);
            Message {
                subject,
                reply: &[],
                headers: &[],
                body: &rest[2..rest.len() - 2],
                header_size_text: &[],
                size_text,
                tail,
            }
        })
    }

    /// Its first `count` messages.
    #[inline]
    pub fn first(&self, count: usize) -> Self {
        Self::new(self.subject, self.input, &self.tails[..count])
    }

    /// The same run without its first `count` messages.
    #[inline]
    pub fn after(&self, count: usize) -> Self {
        Self::new(self.subject, self.input, &self.tails[count..])
    }
}

//! Messages on their way through the server: borrowed slices of a read buffer or of a lane's batch.

/// A published message. Nothing is owned: it lives for one call of the broker.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub subject: &'a [u8],
    /// Empty = none.
    pub reply: &'a [u8],
    /// The header block as it came, `NATS/1.0` and blank line included; empty = none.
    pub headers: &'a [u8],
    /// Headers (if any) and payload, contiguous: what MSG or HMSG carries.
    pub body: &'a [u8],
    /// The sizes of headers and body as their publisher wrote them: nats-server hands them on
    /// unchanged, leading zeros and all. Without headers the first is empty.
    pub header_size_text: &'a [u8],
    pub size_text: &'a [u8],
    /// Everything behind the subject and a blank: reply, size, body and line ends, as a MSG has
    /// them after its sid. Empty if these do not lie in one piece.
    pub tail: &'a [u8],
}

impl<'a> Message<'a> {
    /// A message without headers whose parts may lie anywhere. Empty reply = none.
    #[inline]
    pub fn without_headers(
        subject: &'a [u8],
        reply: &'a [u8],
        body: &'a [u8],
        size_text: &'a [u8],
    ) -> Self {
        Self { subject, reply, headers: &[], body, header_size_text: &[], size_text, tail: &[] }
    }

    /// The message of a subject and a tail, with the sizes of the reply and of the size text in
    /// that tail.
    #[inline]
    pub fn in_one_piece(
        subject: &'a [u8],
        tail: &'a [u8],
        reply_size: usize,
        size_text_size: usize,
    ) -> Self {
        let size_start = if reply_size > 0 { reply_size + 1 } else { 0 };
        let size_end = size_start + size_text_size;
        Self {
            subject,
            reply: &tail[..reply_size],
            headers: &[],
            body: &tail[size_end + 2..tail.len() - 2],
            header_size_text: &[],
            size_text: &tail[size_start..size_end],
            tail,
        }
    }

    /// Bytes of subject, reply and body.
    #[inline]
    pub fn size(&self) -> usize {
        self.subject.len() + self.reply.len() + self.body.len()
    }

    pub fn payload(&self) -> &'a [u8] {
        &self.body[self.headers.len()..]
    }
}

/// The place of one message of a run.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    start: u32,
    size: u32,
    size_text_size: u32,
}

impl Tail {
    /// A tail that begins at `start` of the input, with its size and the size of its size text.
    #[inline]
    pub fn new(start: usize, size: usize, size_text_size: usize) -> Self {
        Self { start: start as u32, size: size as u32, size_text_size: size_text_size as u32 }
    }

    /// Its first byte in the input.
    #[inline]
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// The place of an equally large message that begins at `start`.
    #[inline]
    pub fn at(self, start: usize) -> Self {
        Self { start: start as u32, ..self }
    }

    #[inline]
    fn of<'a>(&self, input: &'a [u8]) -> &'a [u8] {
        &input[self.start as usize..][..self.size as usize]
    }

    /// The message without a reply that it makes with its subject.
    #[inline]
    fn message<'a>(&self, subject: &'a [u8], input: &'a [u8]) -> Message<'a> {
        Message::in_one_piece(subject, self.of(input), 0, self.size_text_size as usize)
    }
}

/// Messages of one publisher in a row that differ in their payload only: same subject, no reply, no
/// headers. What is decided about one of them holds for all. A run of one is any message.
#[derive(Clone, Copy, Debug)]
pub struct MessageRun<'a> {
    first: Message<'a>,
    input: &'a [u8],
    /// All messages, the first included; meaningless in a run of one.
    tails: &'a [Tail],
    tail_bytes: usize,
    body_bytes: usize,
    repeats: bool,
}

impl<'a> MessageRun<'a> {
    /// A single message, whatever it looks like.
    #[inline]
    pub fn one(message: Message<'a>) -> Self {
        let (tail_bytes, body_bytes) = (message.tail.len(), message.body.len());
        Self { first: message, input: &[], tails: &[], tail_bytes, body_bytes, repeats: false }
    }

    /// The messages whose tails lie in `input`: at least one.
    #[inline]
    pub fn new(subject: &'a [u8], input: &'a [u8], tails: &'a [Tail]) -> Self {
        let (mut tail_bytes, mut text_bytes) = (0, 0);
        for tail in tails {
            tail_bytes += tail.size as usize;
            text_bytes += tail.size_text_size as usize;
        }
        let body_bytes = tail_bytes - text_bytes - tails.len() * 2 * b"\r\n".len();
        let first = tails[0].message(subject, input);
        Self { first, input, tails, tail_bytes, body_bytes, repeats: false }
    }

    /// The same run, marked: it has the account and the subject of the messages published just
    /// before it.
    #[inline]
    pub fn repeated(self) -> Self {
        Self { repeats: true, ..self }
    }

    /// True if it surely has the account and the subject of the messages published just before it.
    #[inline]
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// Messages in it; never 0.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "no run is empty")]
    pub fn len(&self) -> usize {
        self.tails.len().max(1)
    }

    /// Its first message: in a run of one all there is.
    #[inline]
    pub fn first(&self) -> &Message<'a> {
        &self.first
    }

    #[inline]
    pub fn subject(&self) -> &'a [u8] {
        self.first.subject
    }

    /// True if all that follows the subject lies in one piece in each message.
    #[inline]
    pub fn has_tails(&self) -> bool {
        !self.first.tail.is_empty()
    }

    /// These messages on another subject.
    #[inline]
    pub fn on_subject<'b>(&self, subject: &'b [u8]) -> MessageRun<'b>
    where
        'a: 'b,
    {
        MessageRun { first: Message { subject, ..self.first }, ..*self }
    }

    /// Bytes of all tails.
    #[inline]
    pub fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// Bytes of all bodies.
    #[inline]
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// The tail of each message (see `Message::tail`); only for a run of more than one.
    #[inline]
    pub fn tails(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        debug_assert!(self.len() > 1);
        let input = self.input;
        self.tails.iter().map(move |tail| tail.of(input))
    }

    /// The tail of each message, and the bytes of its size text.
    #[inline]
    pub fn places(&self) -> impl Iterator<Item = (&'a [u8], usize)> + use<'a> {
        self.tails().zip(self.tails).map(|(tail, place)| (tail, place.size_text_size as usize))
    }

    /// Its messages one by one.
    #[inline]
    pub fn messages(&self) -> impl Iterator<Item = Message<'a>> + use<'a> {
        let Self { first, input, tails, .. } = *self;
        let others = tails.iter().skip(1).map(move |tail| tail.message(first.subject, input));
        std::iter::once(first).chain(others)
    }

    /// The first `count` messages of the run: at least one.
    #[inline]
    pub fn up_to(&self, count: usize) -> Self {
        debug_assert!((1..=self.len()).contains(&count));
        if count == self.len() {
            return *self;
        }
        let run = Self::new(self.first.subject, self.input, &self.tails[..count]);
        Self { repeats: self.repeats, ..run }
    }

    /// The run without its first `count` messages: fewer than all.
    #[inline]
    pub fn after(&self, count: usize) -> Self {
        debug_assert!(count < self.len());
        if count == 0 {
            return *self;
        }
        Self::new(self.first.subject, self.input, &self.tails[count..]).repeated()
    }
}

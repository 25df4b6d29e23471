//! One message on its way through the server: borrowed slices of a read buffer or of a lane's batch.

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

//! A second descriptor of a socket of which only the number is known.
//!
//! The runtime gives a socket back as a number alone, which safe code cannot own. The kernel makes
//! an owned descriptor of it when it is sent over a Unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Returns a new descriptor of the same socket, which is closed on exec.
///
/// # Errors
/// If descriptors are scarce.
pub(super) fn duplicate(descriptor: RawFd) -> io::Result<OwnedFd> {
    let (source, target) = UnixStream::pair()?;
    let descriptors = [descriptor];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let text = [IoSlice::new(b"d")];
    sendmsg::<SockaddrStorage>(source.as_raw_fd(), &text, &rights, MsgFlags::MSG_DONTWAIT, None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(&target, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    received.ok_or_else(|| io::Error::other("no descriptor came back"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_duplicate_is_the_same_socket_and_outlives_the_first_descriptor() {
        let (mut near, far) = UnixStream::pair().expect("a pair");
        let second = duplicate(far.as_raw_fd()).expect("there are descriptors");
        assert_ne!(second.as_raw_fd(), far.as_raw_fd());
        drop(far);
        let mut second = UnixStream::from(second);
        near.write_all(b"hello").expect("it is open");
        let mut heard = [0; 5];
        second.read_exact(&mut heard).expect("it is open");
        assert_eq!(&heard, b"hello");
    }

    #[test]
    fn a_number_that_names_nothing_is_an_error() {
        assert!(duplicate(-1).is_err());
    }
}

//! Keeps secrets on the command line out of `/proc/<pid>/cmdline`, which every user of the host may
//! read.
//!
//! The memory that the kernel shows as the command line cannot be changed without unsafe code. So a
//! process that was given a secret starts itself again, under the same name and process id, with
//! `[REDACTED]` in the secret's place and the secret in an anonymous memory file, which is emptied
//! once it has been read. The secret is visible until then, for some milliseconds: a file or an
//! environment variable used by the configuration is a better place.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const REDACTED: &[u8] = b"[REDACTED]";

const SECRET_FLAGS: [&[u8]; 3] = [b"user", b"pass", b"auth"];

/// Tells the restarted process the descriptor of the memory file.
const DESCRIPTOR_VARIABLE: &str = "MIDGE_SECRETS_FD";

/// The arguments as they were originally given.
pub(crate) struct Arguments {
    pub arguments: Vec<OsString>,
    /// Set if the secrets stay visible: why.
    pub warning: Option<String>,
}

/// Takes the whole command line, including the program's name. If it shows secrets, this does not
/// return: the process starts again with them hidden.
pub(crate) fn hide(arguments: impl Iterator<Item = OsString>) -> Arguments {
    let arguments: Vec<OsString> = arguments.collect();
    let (redacted, secrets) = redact(&arguments);
    if secrets.is_empty() {
        return Arguments { arguments: fetch(arguments), warning: None };
    }
    // Returns only on failure.
    let error = start_again(&redacted, &secrets).err();
    let warning = error.map(|error| {
        format!("Secrets on the command line stay visible to other users of this host: {error}")
    });
    Arguments { arguments, warning }
}

/// The place of a secret: after a position in the argument, or the next argument.
enum Place {
    Behind(usize),
    Next,
}

fn secret_place(argument: &[u8]) -> Option<Place> {
    let name = argument.strip_prefix(b"--").or_else(|| argument.strip_prefix(b"-"))?;
    let equals = name.iter().position(|&byte| byte == b'=');
    let bare = &name[..equals.unwrap_or(name.len())];
    if !SECRET_FLAGS.contains(&bare) {
        return None;
    }
    Some(match equals {
        Some(equals) => Place::Behind(argument.len() - name.len() + equals + 1),
        None => Place::Next,
    })
}

/// Calls `change` with the secret part of each argument that has one.
fn for_each_secret(arguments: &mut [OsString], mut change: impl FnMut(&mut Vec<u8>)) {
    let mut next_is_secret = false;
    for argument in arguments.iter_mut().skip(1) {
        let mut bytes = std::mem::take(argument).into_vec();
        if std::mem::take(&mut next_is_secret) {
            change(&mut bytes);
        } else {
            match secret_place(&bytes) {
                Some(Place::Behind(start)) => {
                    let mut secret = bytes.split_off(start);
                    change(&mut secret);
                    bytes.append(&mut secret);
                }
                Some(Place::Next) => next_is_secret = true,
                None => {}
            }
        }
        *argument = OsString::from_vec(bytes);
    }
}

/// Returns the arguments without their secrets, and the secrets in order; none if all are hidden
/// already.
fn redact(arguments: &[OsString]) -> (Vec<OsString>, Vec<Vec<u8>>) {
    let mut redacted = arguments.to_vec();
    let mut secrets = Vec::new();
    for_each_secret(&mut redacted, |secret| {
        secrets.push(std::mem::replace(secret, REDACTED.to_vec()));
    });
    if secrets.iter().all(|secret| secret == REDACTED) {
        secrets.clear();
    }
    (redacted, secrets)
}

/// Puts secrets back where `redact` took them from.
fn restore(arguments: &mut [OsString], secrets: &[Vec<u8>]) {
    let mut secrets = secrets.iter();
    for_each_secret(arguments, |place| {
        if let Some(secret) = secrets.next() {
            place.clone_from(secret);
        }
    });
}

/// Joins the secrets, each ended by a NUL byte, which arguments cannot contain.
fn pack(secrets: &[Vec<u8>]) -> Vec<u8> {
    secrets.iter().flat_map(|secret| secret.iter().copied().chain([0])).collect()
}

fn unpack(bytes: &[u8]) -> Vec<Vec<u8>> {
    let body = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    body.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
}

/// Starts the program again with these arguments.
///
/// # Errors
/// If there is no memory file, or the program cannot be started again.
fn start_again(redacted: &[OsString], secrets: &[Vec<u8>]) -> io::Result<()> {
    let memory = rustix::fs::memfd_create("secrets", rustix::fs::MemfdFlags::empty())?;
    let descriptor = memory.as_raw_fd().to_string();
    let mut memory = std::fs::File::from(memory);
    memory.write_all(&pack(secrets))?;
    let name = redacted.first().map_or(OsStr::new("midge"), OsString::as_os_str);
    let error = Command::new(own_path(name)?)
        .arg0(name)
        .args(&redacted[1..])
        .env(DESCRIPTOR_VARIABLE, descriptor)
        .exec();
    Err(error)
}

/// Returns the path by which this process was started, if that still leads to the running program:
/// the kernel names the process after it, and `--signal` finds servers by that name.
fn own_path(name: &OsStr) -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let is_program = |path: &Path| {
        path.canonicalize().is_ok_and(|path| program.canonicalize().is_ok_and(|own| own == path))
    };
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return Ok(if is_program(&path) { path } else { program });
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search).map(|directory| directory.join(name));
    Ok(found.into_iter().find(|path| is_program(path)).unwrap_or(program))
}

/// Restores the secrets in a process that `start_again` has started.
fn fetch(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let descriptor = std::env::var(DESCRIPTOR_VARIABLE).ok();
    let descriptor = descriptor.and_then(|text| text.parse::<u32>().ok());
    let secrets = descriptor.and_then(|descriptor| read_and_empty(descriptor).ok());
    if let Some(secrets) = secrets {
        restore(&mut arguments, &secrets);
    }
    arguments
}

fn read_and_empty(descriptor: u32) -> io::Result<Vec<Vec<u8>>> {
    let path = PathBuf::from(format!("/proc/self/fd/{descriptor}"));
    // Only a file made by this module: a leftover variable in the environment must not empty
    // another.
    let target = std::fs::read_link(&path)?;
    if !target.as_os_str().as_bytes().starts_with(b"/memfd:secrets") {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut memory = std::fs::File::options().read(true).write(true).open(&path)?;
    let mut bytes = Vec::new();
    memory.read_to_end(&mut bytes)?;
    memory.set_len(0)?;
    Ok(unpack(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn secrets_are_taken_out_and_put_back_however_they_are_written() {
        let cases = [
            ("midge -p 1 --pass x", "midge -p 1 --pass [REDACTED]", vec!["x"]),
            ("midge -pass=x=y -D", "midge -pass=[REDACTED] -D", vec!["x=y"]),
            (
                "midge --user u --auth=t",
                "midge --user [REDACTED] --auth=[REDACTED]",
                vec!["u", "t"],
            ),
            ("midge -pass --pass", "midge -pass [REDACTED]", vec!["--pass"]),
            ("midge -pass", "midge -pass", vec![]),
            ("midge -passed x -username y", "midge -passed x -username y", vec![]),
            ("midge -c pass", "midge -c pass", vec![]),
            ("midge --auth=", "midge --auth=[REDACTED]", vec![""]),
        ];
        for (given, hidden, expected) in cases {
            let (mut redacted, secrets) = redact(&line(given));
            assert_eq!(redacted, line(hidden), "{given}");
            let expected: Vec<Vec<u8>> =
                expected.iter().map(|text| text.as_bytes().to_vec()).collect();
            assert_eq!(secrets, expected, "{given}");
            if !secrets.is_empty() {
                assert_eq!(unpack(&pack(&secrets)), secrets, "{given}");
            }
            restore(&mut redacted, &secrets);
            assert_eq!(redacted, line(given), "{given}");
        }
    }

    #[test]
    fn a_hidden_line_has_no_secrets_left_to_hide() {
        let (hidden, _) = redact(&line("midge --pass x --auth=y"));
        let (again, secrets) = redact(&hidden);
        assert_eq!(again, hidden);
        assert!(secrets.is_empty());
    }
}

//! Ctrl-C: the first asks every loop to end and the results to be written, the second ends the
//! process at once, with its servers and temporary folders.

use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Children and folders that the process must not leave behind when it ends at once.
static BELONGINGS: Mutex<Belongings> =
    Mutex::new(Belongings { children: Vec::new(), folders: Vec::new() });

struct Belongings {
    children: Vec<u32>,
    folders: Vec<PathBuf>,
}

/// The exit status of an interrupted process, as in shells: 128 plus the number of SIGINT.
pub const STATUS: u8 = 130;
const _: () = assert!(STATUS as i32 == 128 + SIGINT);

/// Starts the thread that waits for signals; to be called once, before any load is started.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn install() -> Result<(), crate::Failure> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            // Relaxed: it only has to be seen soon; nothing else depends on it.
            if REQUESTED.swap(true, Ordering::Relaxed) {
                leave();
            }
        }
    });
    Ok(())
}

pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Returns why nothing was measured: an interrupt, else `otherwise`.
pub fn reason_or(otherwise: &str) -> String {
    match requested() {
        true => "interrupted before anything was measured".to_string(),
        false => otherwise.to_string(),
    }
}

/// Registers a child that must end with this process. `disown_child` must be called before its exit
/// status is taken, while its id cannot belong to another process.
pub fn own_child(id: u32) {
    lock().children.push(id);
}

pub fn disown_child(id: u32) {
    lock().children.retain(|&child| child != id);
}

/// Registers a folder that is removed with this process.
pub fn own_folder(path: &Path) {
    lock().folders.push(path.to_path_buf());
}

pub fn disown_folder(path: &Path) {
    lock().folders.retain(|folder| folder != path);
}

fn leave() -> ! {
    // Held until the end, so that no further child is started.
    let belongings = lock();
    for &id in &belongings.children {
        let id = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw);
        // It may have ended already.
        let _ = id.map(|id| rustix::process::kill_process(id, rustix::process::Signal::KILL));
    }
    for folder in &belongings.folders {
        // There is nobody left to report a failure to.
        let _ = std::fs::remove_dir_all(folder);
    }
    std::process::exit(i32::from(STATUS))
}

fn lock() -> std::sync::MutexGuard<'static, Belongings> {
    BELONGINGS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

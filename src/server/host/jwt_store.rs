//! A directory with the JWTs of accounts, one file each: `A….jwt`.
//!
//! A file is replaced as a whole, so that a crash leaves the old or the new one. An index in memory
//! knows all names; only those JWTs are read that somebody asks for.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::auth::nkey::{KeyKind, is_public_key};
use crate::base::files::{self, Patience};
use crate::base::limits::JWT_BYTES_MAX;
use crate::config::operator_options::{Deletion, DirectoryKind, DirectoryOptions};

const SUFFIX: &str = ".jwt";

/// Why a JWT was not stored; displayed in nats-server's words.
#[derive(Debug)]
pub(crate) enum StoreError {
    Full,
    Io(io::Error),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full => formatter.write_str("jwt store is full"),
            Self::Io(error) => error.fmt(formatter),
        }
    }
}

struct Entry {
    /// Its key in `by_use`.
    used: u64,
    /// The last time that it was stored or asked for.
    touched: Instant,
}

/// An open directory.
pub(crate) struct JwtStore {
    options: DirectoryOptions,
    entries: HashMap<String, Entry>,
    /// Names by their last use, the longest ago first.
    by_use: BTreeMap<u64, String>,
    uses: u64,
}

impl JwtStore {
    /// Opens a directory, which is made if it is missing.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn open(options: &DirectoryOptions) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&options.path)?;
        let mut store = Self {
            options: options.clone(),
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
        };
        for entry in fs::read_dir(&options.path)? {
            let name = entry?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            if let Some(name) = name.filter(|name| is_public_key(name, KeyKind::Account)) {
                store.touch(name);
            }
        }
        Ok(store)
    }

    /// Returns true if it keeps all accounts; otherwise it is a cache.
    pub(crate) fn is_full_store(&self) -> bool {
        matches!(self.options.kind, DirectoryKind::Full { .. })
    }

    pub(crate) fn may_delete(&self) -> bool {
        match self.options.kind {
            DirectoryKind::Full { delete } => delete != Deletion::Refused,
            DirectoryKind::Cache { .. } => true,
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.entries.keys()
    }

    fn touch(&mut self, name: &str) {
        self.uses += 1;
        let entry = Entry { used: self.uses, touched: Instant::now() };
        if let Some(before) = self.entries.insert(name.to_owned(), entry) {
            self.by_use.remove(&before.used);
        }
        self.by_use.insert(self.uses, name.to_owned());
    }

    fn forget(&mut self, name: &str) {
        if let Some(entry) = self.entries.remove(name) {
            self.by_use.remove(&entry.used);
        }
    }

    fn path(&self, name: &str, suffix: &str) -> PathBuf {
        self.options.path.join(format!("{name}{suffix}"))
    }

    /// Returns an account's JWT. A file that somebody has put there is found, too.
    pub(crate) fn fetch(&mut self, name: &str) -> Option<String> {
        if !is_public_key(name, KeyKind::Account) {
            return None;
        }
        let bytes = files::read(&self.path(name, SUFFIX), JWT_BYTES_MAX, Patience::None).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        match text {
            Some(text) => {
                self.touch(name);
                Some(text.trim().to_owned())
            }
            None => {
                self.forget(name);
                None
            }
        }
    }

    /// Stores the JWT of an account whose key has been checked. A cache makes room for it.
    ///
    /// # Errors
    /// If there is no room, or the file cannot be written: then the old one stays.
    pub(crate) fn save(&mut self, name: &str, jwt: &str) -> Result<(), StoreError> {
        let max = self.options.accounts_max;
        if max > 0 && !self.entries.contains_key(name) {
            if self.is_full_store() && self.entries.len() >= max {
                return Err(StoreError::Full);
            }
            while self.entries.len() >= max
                && let Some((_, oldest)) = self.by_use.first_key_value()
            {
                let oldest = oldest.clone();
                self.remove_file(&oldest);
            }
        }
        self.replace_file(name, jwt).map_err(StoreError::Io)?;
        self.touch(name);
        Ok(())
    }

    fn replace_file(&self, name: &str, jwt: &str) -> io::Result<()> {
        use std::io::Write;
        let new = self.path(name, ".jwt.new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(jwt.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, self.path(name, SUFFIX))
    }

    fn remove_file(&mut self, name: &str) {
        // A file that is gone already is as good.
        let _ = fs::remove_file(self.path(name, SUFFIX));
        self.forget(name);
    }

    /// Deletes an account; one that is not there counts as deleted.
    ///
    /// # Errors
    /// If the file stays.
    pub(crate) fn delete(&mut self, name: &str) -> io::Result<()> {
        let path = self.path(name, SUFFIX);
        let done = match self.options.kind {
            DirectoryKind::Full { delete: Deletion::Renamed } => {
                fs::rename(&path, self.path(name, ".jwt.deleted"))
            }
            _ => fs::remove_file(&path),
        };
        self.forget(name);
        match done {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the files of a cache that nobody has asked for in a long time.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let DirectoryKind::Cache { ttl: Some(ttl) } = self.options.kind else { return };
        self.sweep_older_than(now, ttl);
    }

    fn sweep_older_than(&mut self, now: Instant, ttl: Duration) {
        while let Some((_, oldest)) = self.by_use.first_key_value() {
            let is_old = self.entries[oldest].touched + ttl <= now;
            if !is_old {
                return;
            }
            let oldest = oldest.clone();
            self.remove_file(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u8) -> String {
        let kind = nkeys::KeyPairType::Account;
        nkeys::KeyPair::new_from_raw(kind, [number; 32]).expect("a pair").public_key()
    }

    /// A directory that goes with the test.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Self {
            let own = format!("midge-jwt-store-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(own))
        }

        fn options(&self, kind: DirectoryKind, accounts_max: usize) -> DirectoryOptions {
            DirectoryOptions { path: self.0.clone(), kind, accounts_max }
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_full_store_refuses_more_and_keeps_what_it_has() {
        let directory = Temporary::new("full");
        let kind = DirectoryKind::Full { delete: Deletion::Renamed };
        let options = directory.options(kind, 2);
        let mut store = JwtStore::open(&options).unwrap();
        store.save(&name(1), "one").unwrap();
        store.save(&name(2), "two").unwrap();
        assert!(matches!(store.save(&name(3), "three"), Err(StoreError::Full)));
        store.save(&name(1), "new").unwrap();
        let mut store = JwtStore::open(&options).unwrap();
        assert_eq!(store.fetch(&name(1)).as_deref(), Some("new"));
        assert_eq!((store.fetch(&name(3)), store.names().count()), (None, 2));
        store.delete(&name(1)).unwrap();
        store.delete(&name(1)).unwrap();
        assert_eq!(store.fetch(&name(1)), None);
        assert!(directory.0.join(format!("{}.jwt.deleted", name(1))).exists());
        assert_eq!(store.fetch("../../etc/passwd"), None);
    }

    #[test]
    fn a_cache_drops_what_was_used_the_longest_ago() {
        let directory = Temporary::new("cache");
        let ttl = Some(Duration::from_secs(60));
        let options = directory.options(DirectoryKind::Cache { ttl }, 2);
        let mut store = JwtStore::open(&options).unwrap();
        store.save(&name(1), "one").unwrap();
        store.save(&name(2), "two").unwrap();
        assert!(store.fetch(&name(1)).is_some());
        store.save(&name(3), "three").unwrap();
        assert_eq!((store.fetch(&name(2)), store.names().count()), (None, 2));
        store.sweep(Instant::now());
        assert_eq!(store.names().count(), 2);
        store.sweep(Instant::now() + Duration::from_secs(61));
        assert_eq!((store.names().count(), store.fetch(&name(1))), (0, None));
    }
}

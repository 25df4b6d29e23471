//! The temporary folder of one started server, and certificates made for it, so that a TLS
//! comparison needs no files. Keys are new each time, readable only by their owner, and removed
//! with the folder.

use crate::Failure;
use crate::host::interrupt;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Names by which a started server is reached.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A folder that nobody else can read; removed when dropped.
pub struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    /// Makes a folder in the system's folder for temporary files.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<TemporaryFolder, Failure> {
        TemporaryFolder::new_in(&std::env::temp_dir())
    }

    /// Makes a folder in `parent`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new_in(parent: &Path) -> Result<TemporaryFolder, Failure> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only uniqueness matters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("midge-bench-{}-{number}", std::process::id());
        let path = parent.join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            Failure::new(format!("cannot make the folder {}: {error}", path.display()))
        })?;
        interrupt::own_folder(&path);
        Ok(TemporaryFolder { path })
    }

    /// Returns the path of a file in it.
    pub fn file(&self, name: &str) -> String {
        self.path.join(name).to_string_lossy().into_owned()
    }

    /// Writes a file that only its owner can read; returns its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, content: &str) -> Result<String, Failure> {
        let path = self.file(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(content.as_bytes())?;
        Ok(path)
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // A folder that cannot be removed stays in the system's temporary folder; nothing depends
        // on it.
        let _ = std::fs::remove_dir_all(&self.path);
        interrupt::disown_folder(&self.path);
    }
}

/// Paths of an authority, and of a certificate signed by it that serves both a server and its
/// client.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

/// Makes an authority and a certificate for this host in `folder`.
///
/// # Errors
/// When a file cannot be written.
pub fn make(folder: &TemporaryFolder) -> Result<CertificateFiles, Failure> {
    let explain = |error: rcgen::Error| Failure::new(format!("cannot make a certificate: {error}"));
    let authority_key = KeyPair::generate().map_err(explain)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(explain)?;
    params.distinguished_name.push(DnType::CommonName, "midge-bench authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = params.self_signed(&authority_key).map_err(explain)?.pem();
    let issuer = Issuer::new(params, authority_key);

    let key = KeyPair::generate().map_err(explain)?;
    let mut params = CertificateParams::new(NAMES.map(str::to_string)).map_err(explain)?;
    params.distinguished_name.push(DnType::CommonName, "midge-bench");
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).map_err(explain)?.pem();
    Ok(CertificateFiles {
        authority: folder.write("authority.pem", &authority)?,
        certificate: folder.write("certificate.pem", &certificate)?,
        key: folder.write("key.pem", &key.serialize_pem())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_with_a_key_is_private_and_goes_away() {
        let folder = TemporaryFolder::new().unwrap();
        let files = make(&folder).unwrap();
        let mode = |path: &str| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&files.key), 0o600);
        assert_eq!(mode(&folder.path.to_string_lossy()), 0o700);
        drop(folder);
        assert!(std::fs::metadata(&files.key).is_err());
    }
}

//! How the load reaches a server and logs in, as flags say it.

use crate::Failure;
use crate::host::certificates::CertificateFiles;
use crate::wire::address::{Address, ServerUrl};
use crate::wire::connection::Dialer;
use crate::wire::credentials::Credentials;
use crate::wire::tls::{self, TlsFiles};
use clap::Args;

#[derive(Args, Debug, Clone, Default)]
pub struct LoginArguments {
    /// Congestion control of the load's own TCP sockets, such as cubic; default: the host's
    #[arg(long, help_heading = "Sockets", value_name = "NAME")]
    pub congestion: Option<String>,
    #[arg(long, help_heading = "Login", requires = "password")]
    pub user: Option<String>,
    #[arg(long, help_heading = "Login", requires = "user")]
    pub password: Option<String>,
    /// The user of subscribers and responders, if it is another: of an account that imports from the
    /// publishers', or exports to the requesters'
    #[arg(long, help_heading = "Login", value_name = "USER", requires = "subscriber_password")]
    pub subscriber_user: Option<String>,
    #[arg(long, help_heading = "Login", value_name = "PASSWORD", requires = "subscriber_user")]
    pub subscriber_password: Option<String>,
    #[arg(long, help_heading = "Login", conflicts_with_all = ["user", "nkey", "creds"])]
    pub token: Option<String>,
    /// An nkey seed, or a file that holds one
    #[arg(long, help_heading = "Login", value_name = "SEED|FILE", conflicts_with_all = ["user", "creds"])]
    pub nkey: Option<String>,
    /// A credentials file: user JWT and seed
    #[arg(long, help_heading = "Login", value_name = "FILE", conflicts_with = "user")]
    pub creds: Option<String>,
    /// Authorities that sign the server's certificate; default: those of the system
    #[arg(long, help_heading = "TLS", value_name = "FILE")]
    pub tls_ca: Option<String>,
    #[arg(long, help_heading = "TLS", value_name = "FILE")]
    pub tls_cert: Option<String>,
    #[arg(long, help_heading = "TLS", value_name = "FILE")]
    pub tls_key: Option<String>,
    /// Accept any certificate
    #[arg(long, help_heading = "TLS")]
    pub tls_insecure: bool,
}

impl LoginArguments {
    fn credentials(&self) -> Result<Credentials, Failure> {
        if let (Some(user), Some(password)) = (&self.user, &self.password) {
            return Ok(Credentials::User { user: user.clone(), password: password.clone() });
        }
        if let Some(token) = &self.token {
            return Ok(Credentials::Token(token.clone()));
        }
        if let Some(nkey) = &self.nkey {
            return Credentials::from_seed_or_file(nkey);
        }
        if let Some(path) = &self.creds {
            return Credentials::from_credentials_file(path);
        }
        Ok(Credentials::None)
    }

    /// Returns a dialer for an address; these flags take precedence over the URL.
    ///
    /// # Errors
    /// If a file named by the flags cannot be used.
    pub fn dialer(&self, url: &ServerUrl) -> Result<Dialer, Failure> {
        self.dialer_with(url, None)
    }

    /// Returns a dialer for a server that was started with certificates made by the harness: they
    /// are used unless the flags name others.
    ///
    /// # Errors
    /// As `dialer`.
    pub fn dialer_with(
        &self,
        url: &ServerUrl,
        made: Option<&CertificateFiles>,
    ) -> Result<Dialer, Failure> {
        let mut dialer = Dialer::for_url(url);
        dialer.congestion.clone_from(&self.congestion);
        let credentials = self.credentials()?;
        if !matches!(credentials, Credentials::None) {
            dialer.credentials = credentials;
        }
        if let (Some(user), Some(password)) = (&self.subscriber_user, &self.subscriber_password) {
            let (user, password) = (user.clone(), password.clone());
            dialer.subscriber_credentials = Some(Credentials::User { user, password });
        }
        let given = self.tls_ca.is_some() || self.tls_cert.is_some() || self.tls_insecure;
        if given || matches!(url.address, Address::Tcp { tls: true, .. }) {
            let mut files = TlsFiles {
                authorities: self.tls_ca.clone(),
                certificate: self.tls_cert.clone(),
                key: self.tls_key.clone(),
                insecure: self.tls_insecure,
            };
            if let Some(made) = made {
                files.authorities.get_or_insert_with(|| made.authority.clone());
                if files.certificate.is_none() && files.key.is_none() {
                    files.certificate = Some(made.certificate.clone());
                    files.key = Some(made.key.clone());
                }
            }
            dialer.tls = Some(tls::settings(&files)?);
        }
        Ok(dialer)
    }
}

//! The harness's login: user and password, token, nkey seed, or a credentials file. Secrets are
//! read and used for signing here, and never printed.

use crate::Failure;
use serde_json::{Map, Value};

/// The login of every connection of a run.
#[derive(Clone, Default)]
pub enum Credentials {
    #[default]
    None,
    User {
        user: String,
        password: String,
    },
    Token(String),
    Nkey {
        seed: String,
    },
    /// A user JWT, and the seed that signs for it.
    Jwt {
        jwt: String,
        seed: String,
    },
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Credentials::None => "no credentials",
            Credentials::User { .. } => "user and password",
            Credentials::Token(_) => "token",
            Credentials::Nkey { .. } => "nkey",
            Credentials::Jwt { .. } => "credentials file",
        })
    }
}

impl Credentials {
    /// Takes an nkey seed, or the path of a file that holds one.
    ///
    /// # Errors
    /// If the text is neither.
    pub fn from_seed_or_file(text: &str) -> Result<Credentials, Failure> {
        let seed = if text.starts_with('S') && nkeys::KeyPair::from_seed(text).is_ok() {
            text.to_string()
        } else {
            let content = std::fs::read_to_string(text).map_err(|error| {
                Failure::new(format!("cannot read the nkey seed file: {error}"))
            })?;
            content
                .lines()
                .map(str::trim)
                .find(|line| line.starts_with('S'))
                .ok_or_else(|| Failure::new("the nkey seed file holds no line that starts with S"))?
                .to_string()
        };
        nkeys::KeyPair::from_seed(&seed)
            .map_err(|error| Failure::new(format!("the nkey seed is not valid: {error}")))?;
        Ok(Credentials::Nkey { seed })
    }

    /// Reads the two blocks of a credentials file.
    ///
    /// # Errors
    /// If the file cannot be read or lacks one of the blocks.
    pub fn from_credentials_file(path: &str) -> Result<Credentials, Failure> {
        let content = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(format!("cannot read {path}: {error}")))?;
        let jwt = armoured_block(&content, "USER JWT")
            .ok_or_else(|| Failure::new(format!("{path} has no USER JWT block")))?;
        let seed = armoured_block(&content, "USER NKEY SEED")
            .ok_or_else(|| Failure::new(format!("{path} has no USER NKEY SEED block")))?;
        nkeys::KeyPair::from_seed(&seed)
            .map_err(|error| Failure::new(format!("the seed in {path} is not valid: {error}")))?;
        Ok(Credentials::Jwt { jwt, seed })
    }

    /// Adds what the server wants to see to the object of `CONNECT`.
    ///
    /// # Errors
    /// If the server sent no nonce although the login needs one.
    pub fn fill(
        &self,
        connect: &mut Map<String, Value>,
        nonce: Option<&str>,
    ) -> Result<(), Failure> {
        match self {
            Credentials::None => {}
            Credentials::User { user, password } => {
                connect.insert("user".into(), user.as_str().into());
                connect.insert("pass".into(), password.as_str().into());
            }
            Credentials::Token(token) => {
                connect.insert("auth_token".into(), token.as_str().into());
            }
            Credentials::Nkey { seed } => {
                let pair = key_pair(seed)?;
                connect.insert("nkey".into(), pair.public_key().into());
                connect.insert("sig".into(), signature(&pair, nonce)?.into());
            }
            Credentials::Jwt { jwt, seed } => {
                let pair = key_pair(seed)?;
                connect.insert("jwt".into(), jwt.as_str().into());
                connect.insert("sig".into(), signature(&pair, nonce)?.into());
            }
        }
        Ok(())
    }
}

fn key_pair(seed: &str) -> Result<nkeys::KeyPair, Failure> {
    nkeys::KeyPair::from_seed(seed)
        .map_err(|error| Failure::new(format!("the nkey seed is not valid: {error}")))
}

fn signature(pair: &nkeys::KeyPair, nonce: Option<&str>) -> Result<String, Failure> {
    let nonce = nonce.ok_or_else(|| {
        Failure::new(
            "the server sent no nonce: it does not ask for nkeys, so this login is useless",
        )
    })?;
    let signed = pair
        .sign(nonce.as_bytes())
        .map_err(|error| Failure::new(format!("cannot sign the nonce: {error}")))?;
    Ok(data_encoding::BASE64URL_NOPAD.encode(&signed))
}

/// Returns the text between `-----BEGIN NATS name-----` (or `-----BEGIN name-----`) and the next
/// dashed line.
fn armoured_block(content: &str, name: &str) -> Option<String> {
    let mut lines = content.lines().map(str::trim);
    lines.find(|line| line.starts_with("---") && line.contains("BEGIN") && line.contains(name))?;
    let block: String = lines.take_while(|line| !line.starts_with("---")).collect();
    (!block.is_empty()).then_some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credentials_file_gives_both_blocks() {
        let content = "-----BEGIN NATS USER JWT-----\nabc\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\nSUAB\n------END USER NKEY SEED------\n";
        assert_eq!(armoured_block(content, "USER JWT").as_deref(), Some("abc"));
        assert_eq!(armoured_block(content, "USER NKEY SEED").as_deref(), Some("SUAB"));
        assert_eq!(armoured_block(content, "OTHER"), None);
    }

    #[test]
    fn a_seed_signs_the_nonce_so_that_its_public_key_verifies() {
        let pair = nkeys::KeyPair::new_user();
        let credentials = Credentials::from_seed_or_file(&pair.seed().unwrap()).unwrap();
        let mut connect = Map::new();
        credentials.fill(&mut connect, Some("nonce")).unwrap();
        let public = nkeys::KeyPair::from_public_key(connect["nkey"].as_str().unwrap()).unwrap();
        let signature = data_encoding::BASE64URL_NOPAD
            .decode(connect["sig"].as_str().unwrap().as_bytes())
            .unwrap();
        assert!(public.verify(b"nonce", &signature).is_ok());
        assert!(credentials.fill(&mut Map::new(), None).is_err());
    }
}

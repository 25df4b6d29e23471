//! NATS JWTs: decoding, claims, and the checks that concern one JWT alone.
//!
//! Whoever decodes one knows that it was signed by its `iss`; nothing here says whether that issuer
//! can be trusted. Source of the format: github.com/nats-io/jwt/v2.

pub(crate) mod cidr;
pub(crate) mod claims;
pub(crate) mod template;
pub(crate) mod times;
pub(crate) mod token;
pub(crate) mod validate;

//! Requests about the JWTs of accounts, and their answers. Source: nats-server server/accounts.go
//! (respondToUpdate, handleListRequest).

use serde::Serialize;

use super::server_info::ServerInfo;

/// What is asked about accounts in operator mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClaimsRequest {
    /// Take over the JWT in the body. The account is that of the subject, if that names one.
    Update(Option<String>),
    /// Give the JWT of an account.
    Lookup(String),
    /// Give the keys of all accounts.
    List,
    /// Give all JWTs, unless the requester has the same.
    Pack,
    /// Delete the accounts that the JWT in the body names.
    Delete,
}

/// The answer to one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClaimsAnswer {
    /// None; somebody else may answer.
    Silence,
    Done {
        account: String,
        message: String,
    },
    Failed {
        account: String,
        description: String,
    },
    List(Vec<String>),
    /// As they stand, one message each.
    Raw(Vec<Vec<u8>>),
}

#[derive(Serialize)]
struct Envelope<'a> {
    server: &'a ServerInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Status {
        #[serde(skip_serializing_if = "str::is_empty")]
        account: &'a str,
        code: u16,
        message: &'a str,
    },
    List(&'a [String]),
}

#[derive(Serialize)]
struct Failure<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    account: &'a str,
    code: u16,
    description: &'a str,
}

/// What the server's resolver answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimsScope {
    /// Updates of one account.
    Memory,
    Cache,
    Full,
}

const UPDATE: &str = "$SYS.REQ.CLAIMS.UPDATE";
const LIST: &str = "$SYS.REQ.CLAIMS.LIST";
const DELETE: &str = "$SYS.REQ.CLAIMS.DELETE";
const PACK: &str = "$SYS.REQ.CLAIMS.PACK";

/// Returns the filters subscribed in the system account.
pub(crate) fn filters(scope: ClaimsScope) -> Vec<&'static str> {
    let mut filters = vec!["$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE", "$SYS.ACCOUNT.*.CLAIMS.UPDATE"];
    if scope != ClaimsScope::Memory {
        filters.extend([LIST, DELETE]);
    }
    if scope == ClaimsScope::Full {
        filters.extend([UPDATE, PACK, "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP"]);
    }
    filters
}

/// Parses a subject that one of the filters matched.
pub(crate) fn understand(subject: &str) -> Option<ClaimsRequest> {
    let tokens: Vec<&str> = subject.split('.').collect();
    Some(match tokens[..] {
        ["$SYS", "REQ", "CLAIMS", "UPDATE"] => ClaimsRequest::Update(None),
        ["$SYS", "REQ", "CLAIMS", "LIST"] => ClaimsRequest::List,
        ["$SYS", "REQ", "CLAIMS", "PACK"] => ClaimsRequest::Pack,
        ["$SYS", "REQ", "CLAIMS", "DELETE"] => ClaimsRequest::Delete,
        ["$SYS", "REQ", "ACCOUNT", account, "CLAIMS", "UPDATE"]
        | ["$SYS", "ACCOUNT", account, "CLAIMS", "UPDATE"] => {
            ClaimsRequest::Update(Some(account.to_owned()))
        }
        ["$SYS", "REQ", "ACCOUNT", account, "CLAIMS", "LOOKUP"] => {
            ClaimsRequest::Lookup(account.to_owned())
        }
        _ => return None,
    })
}

impl ClaimsAnswer {
    /// Returns the messages to send.
    pub(crate) fn payloads(self, server: &ServerInfo) -> Vec<Vec<u8>> {
        let (data, error) = match &self {
            Self::Silence => return Vec::new(),
            Self::Raw(_) => (None, None),
            Self::Done { account, message } => {
                (Some(Data::Status { account, code: 200, message }), None)
            }
            Self::Failed { account, description } => {
                (None, Some(Failure { account, code: 500, description }))
            }
            Self::List(names) => (Some(Data::List(names)), None),
        };
        if let Self::Raw(messages) = self {
            return messages;
        }
        let envelope = Envelope { server, data, error };
        vec![serde_json::to_vec(&envelope).expect("strings and numbers always serialise")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filter_is_understood_by_the_scope_that_has_it() {
        for scope in [ClaimsScope::Memory, ClaimsScope::Cache, ClaimsScope::Full] {
            for filter in filters(scope) {
                assert!(understand(&filter.replace('*', "A")).is_some(), "{filter}");
            }
        }
        assert_eq!(filters(ClaimsScope::Full).len(), 7);
        assert_eq!(understand("$SYS.REQ.CLAIMS.OTHER"), None);
        let update = understand("$SYS.ACCOUNT.AX.CLAIMS.UPDATE");
        assert_eq!(update, Some(ClaimsRequest::Update(Some("AX".into()))));
    }
}

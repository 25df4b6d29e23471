//! The subjects that the server answers, and what each of them asks for.
//!
//! Source: nats-server server/events.go (initEventTracking, registerSystemImports). Every account
//! except the system account has four of them, which concern only itself; all others belong to the
//! system account.

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Statsz,
    Idz,
    Varz,
    Subsz,
    Connz,
    Routez,
    Gatewayz,
    Leafz,
    Accountz,
    Jsz,
    Healthz,
    Profilez,
    Expvarz,
    Ipqueuesz,
    Raftz,
    /// About one account, like the following ones.
    AccountSubsz,
    AccountConnz,
    AccountLeafz,
    AccountJsz,
    AccountInfo,
    AccountStatz,
    AccountConns,
    /// About all accounts.
    EveryAccountStatz,
    UserInfo,
    Kick,
    LameDuck,
    Reload,
    /// The number of clients that want a subject.
    DebugSubscribers,
    CountSubscribers,
}

/// Answered at `$SYS.REQ.SERVER.PING.<name>` and `$SYS.REQ.SERVER.<id>.<name>`.
const SERVER_SERVICES: [(&str, Service); 15] = [
    ("STATSZ", Service::Statsz),
    ("IDZ", Service::Idz),
    ("VARZ", Service::Varz),
    ("SUBSZ", Service::Subsz),
    ("CONNZ", Service::Connz),
    ("ROUTEZ", Service::Routez),
    ("GATEWAYZ", Service::Gatewayz),
    ("LEAFZ", Service::Leafz),
    ("ACCOUNTZ", Service::Accountz),
    ("JSZ", Service::Jsz),
    ("HEALTHZ", Service::Healthz),
    ("PROFILEZ", Service::Profilez),
    ("EXPVARZ", Service::Expvarz),
    ("IPQUEUESZ", Service::Ipqueuesz),
    ("RAFTZ", Service::Raftz),
];

/// Answered only at `$SYS.REQ.SERVER.<id>.<name>`.
const OWN_SERVICES: [(&str, Service); 3] =
    [("KICK", Service::Kick), ("LDM", Service::LameDuck), ("RELOAD", Service::Reload)];

/// Answered at `$SYS.REQ.ACCOUNT.<account>.<name>`.
const ACCOUNT_SERVICES: [(&str, Service); 7] = [
    ("SUBSZ", Service::AccountSubsz),
    ("CONNZ", Service::AccountConnz),
    ("LEAFZ", Service::AccountLeafz),
    ("JSZ", Service::AccountJsz),
    ("INFO", Service::AccountInfo),
    ("STATZ", Service::AccountStatz),
    ("CONNS", Service::AccountConns),
];

const PING: &str = "$SYS.REQ.SERVER.PING";
pub(crate) const USER_INFO: &str = "$SYS.REQ.USER.INFO";
const DEBUG_SUBSCRIBERS: &str = "$SYS.DEBUG.SUBSCRIBERS";
const COUNT_SUBSCRIBERS: &str = "$SYS.REQ.ACCOUNT.NSUBS";

/// Subjects on which every other account may ask about itself.
pub const OTHER_ACCOUNTS_SUBJECTS: [&str; 4] = [
    "$SYS.REQ.ACCOUNT.PING.CONNZ",
    "$SYS.REQ.SERVER.PING.CONNZ",
    "$SYS.REQ.ACCOUNT.PING.STATZ",
    USER_INFO,
];

/// Returns the filters subscribed in the system account. No two of them match the same subject.
pub fn system_account_filters(server_id: &str) -> Vec<String> {
    let mut filters: Vec<String> =
        [PING, USER_INFO, "$SYS.REQ.USER.*.INFO", DEBUG_SUBSCRIBERS, COUNT_SUBSCRIBERS]
            .map(String::from)
            .to_vec();
    for (name, _) in SERVER_SERVICES {
        filters.push(format!("{PING}.{name}"));
        filters.push(format!("$SYS.REQ.SERVER.{server_id}.{name}"));
    }
    for (name, _) in OWN_SERVICES {
        filters.push(format!("$SYS.REQ.SERVER.{server_id}.{name}"));
    }
    filters.extend(ACCOUNT_SERVICES.map(|(name, _)| format!("$SYS.REQ.ACCOUNT.*.{name}")));
    filters
}

/// A parsed request subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub service: Service,
    /// The account asked about, for the services of one account.
    pub account: String,
}

/// Parses a subject that one of the filters above matched. `other_account` is the account it was
/// published in, unless that is the system account: the answer then concerns only that account.
pub(crate) fn understand(
    subject: &str,
    server_id: &str,
    other_account: Option<&str>,
) -> Option<Asked> {
    let of = |service, account: &str| Some(Asked { service, account: account.to_owned() });
    if let Some(account) = other_account {
        return match subject {
            "$SYS.REQ.ACCOUNT.PING.CONNZ" | "$SYS.REQ.SERVER.PING.CONNZ" => {
                of(Service::AccountConnz, account)
            }
            "$SYS.REQ.ACCOUNT.PING.STATZ" => of(Service::AccountStatz, account),
            USER_INFO => of(Service::UserInfo, account),
            _ => None,
        };
    }
    let find = |services: &[(&str, Service)], name: &str| {
        services.iter().find(|service| service.0 == name).map(|service| service.1)
    };
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens[..] {
        ["$SYS", "DEBUG", "SUBSCRIBERS"] => of(Service::DebugSubscribers, ""),
        ["$SYS", "REQ", "ACCOUNT", "NSUBS"] => of(Service::CountSubscribers, ""),
        ["$SYS", "REQ", "SERVER", "PING"] => of(Service::Statsz, ""),
        ["$SYS", "REQ", "SERVER", "PING", name] => of(find(&SERVER_SERVICES, name)?, ""),
        ["$SYS", "REQ", "SERVER", id, name] if id == server_id => {
            of(find(&SERVER_SERVICES, name).or_else(|| find(&OWN_SERVICES, name))?, "")
        }
        ["$SYS", "REQ", "ACCOUNT", "PING", "STATZ"] => of(Service::EveryAccountStatz, ""),
        ["$SYS", "REQ", "ACCOUNT", account, name] => of(find(&ACCOUNT_SERVICES, name)?, account),
        ["$SYS", "REQ", "USER", "INFO"] | ["$SYS", "REQ", "USER", _, "INFO"] => {
            of(Service::UserInfo, "")
        }
        _ => None,
    }
}

impl Service {
    /// Returns the Go struct that a request is decoded into, and the part of it that has the
    /// service's own fields: refusals name them.
    pub(crate) fn options_type(self) -> (&'static str, &'static str) {
        match self {
            Self::Statsz => ("StatszEventOptions", ""),
            Self::Varz => ("VarzEventOptions", "VarzOptions"),
            Self::Subsz | Self::AccountSubsz => ("SubszEventOptions", "SubszOptions"),
            Self::Connz | Self::AccountConnz => ("ConnzEventOptions", "ConnzOptions"),
            Self::Routez => ("RoutezEventOptions", "RoutezOptions"),
            Self::Gatewayz => ("GatewayzEventOptions", "GatewayzOptions"),
            Self::Leafz | Self::AccountLeafz => ("LeafzEventOptions", "LeafzOptions"),
            Self::Accountz => ("AccountzEventOptions", "AccountzOptions"),
            Self::Jsz | Self::AccountJsz => ("JszEventOptions", "JSzOptions"),
            Self::Healthz => ("HealthzEventOptions", "HealthzOptions"),
            Self::Profilez => ("ProfilezEventOptions", "ProfilezOptions"),
            Self::Expvarz => ("ExpvarzEventOptions", ""),
            Self::Ipqueuesz => ("IpqueueszEventOptions", "IpqueueszOptions"),
            Self::Raftz => ("RaftzEventOptions", "RaftzOptions"),
            Self::AccountInfo => ("AccInfoEventOptions", ""),
            Self::AccountStatz | Self::EveryAccountStatz => {
                ("AccountStatzEventOptions", "AccountStatzOptions")
            }
            Self::Kick => ("KickClientReq", ""),
            Self::LameDuck => ("LDMClientReq", ""),
            Self::AccountConns => ("accNumConnsReq", ""),
            Self::CountSubscribers => ("accNumSubsReq", ""),
            Self::Idz | Self::UserInfo | Self::Reload | Self::DebugSubscribers => {
                ("EventFilterOptions", "")
            }
        }
    }

    /// Returns the part of that struct that has the fields of the server filter.
    pub(crate) fn filter_part(self) -> &'static str {
        match self {
            Self::Kick | Self::LameDuck | Self::Reload => "",
            _ => "EventFilterOptions",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::subject::{is_valid_filter, matches};

    const ID: &str = "NABC";

    #[test]
    fn every_filter_is_understood_and_no_two_match_one_subject() {
        let filters = system_account_filters(ID);
        let literals: Vec<String> =
            filters.iter().map(|filter| filter.replace('*', "SOMEBODY")).collect();
        for literal in &literals {
            assert!(understand(literal, ID, None).is_some(), "{literal}");
            let matching = filters.iter().filter(|f| matches(f.as_bytes(), literal.as_bytes()));
            assert_eq!(matching.count(), 1, "{literal}");
        }
        assert!(filters.iter().all(|filter| is_valid_filter(filter.as_bytes())));
    }

    #[test]
    fn subjects_name_the_service_and_the_account() {
        let asked = |subject: &str| understand(subject, ID, None).map(|a| (a.service, a.account));
        let of = |service, account: &str| Some((service, account.to_owned()));
        assert_eq!(asked("$SYS.REQ.SERVER.PING"), of(Service::Statsz, ""));
        assert_eq!(asked("$SYS.REQ.SERVER.NABC.KICK"), of(Service::Kick, ""));
        assert_eq!(asked("$SYS.REQ.SERVER.PING.KICK"), None);
        assert_eq!(asked("$SYS.REQ.SERVER.NOTHER.VARZ"), None);
        assert_eq!(asked("$SYS.REQ.ACCOUNT.A.CONNZ"), of(Service::AccountConnz, "A"));
        assert_eq!(asked("$SYS.REQ.ACCOUNT.PING.STATZ"), of(Service::EveryAccountStatz, ""));
        assert_eq!(asked("$SYS.REQ.ACCOUNT.PING.CONNZ"), of(Service::AccountConnz, "PING"));
    }

    /// SECURITY.md: every API subject from a stranger's account.
    #[test]
    fn another_account_asks_about_itself_alone() {
        for filter in system_account_filters(ID) {
            let subject = filter.replace('*', "VICTIM");
            let asked = understand(&subject, ID, Some("STRANGER"));
            let is_its_own = OTHER_ACCOUNTS_SUBJECTS.contains(&subject.as_str());
            assert_eq!(asked.is_some(), is_its_own, "{subject}");
        }
        for subject in OTHER_ACCOUNTS_SUBJECTS {
            let asked = understand(subject, ID, Some("STRANGER")).unwrap();
            assert_eq!(asked.account, "STRANGER");
            assert!(matches!(
                asked.service,
                Service::AccountConnz | Service::AccountStatz | Service::UserInfo
            ));
        }
    }
}

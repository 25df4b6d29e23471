//! Decides whether a request is meant for this server. Source: nats-server server/events.go
//! filterRequest.

use crate::config::options::Options;
use crate::protocol::json_fields::JsonFields;
use crate::protocol::nats::handshake::Info;

/// Fields that every request may have in addition to its own. Source: nats-server
/// `EventFilterOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerFilter {
    name: Option<String>,
    cluster: Option<String>,
    host: Option<String>,
    exact_match: bool,
    tags: Vec<String>,
    domain: Option<String>,
}

impl ServerFilter {
    /// Reads the fields of the filter.
    ///
    /// # Errors
    /// Go's text for a value of the wrong type.
    pub(crate) fn read(fields: &JsonFields, part: &str) -> Result<Self, String> {
        let given =
            |name| Ok::<_, String>(fields.text(part, name)?.filter(|text| !text.is_empty()));
        Ok(Self {
            name: given("server_name")?,
            cluster: given("cluster")?,
            host: given("host")?,
            exact_match: fields.boolean(part, "exact_match")?,
            tags: fields.texts(part, "tags")?,
            domain: given("domain")?,
        })
    }

    /// Returns true if this server is meant.
    pub(crate) fn admits(&self, info: &Info, options: &Options) -> bool {
        let names = |wanted: &Option<String>, own: &str| match wanted {
            None => true,
            Some(wanted) if self.exact_match => wanted == own,
            Some(wanted) => own.contains(wanted.as_str()),
        };
        let has_tag = |tag: &String| {
            options.server_tags.iter().any(|own| own.eq_ignore_ascii_case(tag.trim()))
        };
        names(&self.name, &info.server_name)
            && names(&self.host, &info.host)
            // This server has no cluster and no JetStream domain.
            && names(&self.cluster, "")
            && self.domain.is_none()
            && self.tags.iter().all(has_tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(filter: &str) -> bool {
        let fields = JsonFields::parse(filter.as_bytes(), "VarzEventOptions").unwrap();
        let filter = ServerFilter::read(&fields, "EventFilterOptions").unwrap();
        let info =
            Info { server_name: "east-1".into(), host: "127.0.0.1".into(), ..Info::default() };
        let options =
            Options { server_tags: vec!["az:1".into(), "ssd".into()], ..Options::default() };
        filter.admits(&info, &options)
    }

    #[test]
    fn a_server_is_meant_by_parts_of_its_names_or_by_all_of_them() {
        for meant in [
            "{}",
            r#"{"server_name":"ast"}"#,
            r#"{"server_name":"east-1","exact_match":true}"#,
            r#"{"host":"127."}"#,
            r#"{"tags":["ssd","az:1"]}"#,
            r#"{"tags":["SSD"]}"#,
            r#"{"cluster":"","domain":""}"#,
        ] {
            assert!(admits(meant), "{meant}");
        }
        for other in [
            r#"{"server_name":"west"}"#,
            r#"{"server_name":"east","exact_match":true}"#,
            r#"{"host":"10."}"#,
            r#"{"cluster":"c"}"#,
            r#"{"domain":"d"}"#,
            r#"{"tags":["ssd","az:2"]}"#,
        ] {
            assert!(!admits(other), "{other}");
        }
    }
}

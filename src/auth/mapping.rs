//! Account subject mappings: rules that replace a published subject by another, chosen by weight.
//!
//! There is one pass, before permissions and matching; reply subjects are not mapped. Rules are
//! tried in the order of the file. Source of the behaviour: nats-server server/accounts.go
//! (AddWeightedMappings, selectMappedSubject).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

use smallvec::SmallVec;

use super::account_functions;
use super::transform::Transform;
pub(crate) use super::transform::TransformError;
use crate::config::auth_options::{MappingOptions, Place};
use crate::protocol::subject;

/// All mappings of one account.
#[derive(Clone, Debug, Default)]
pub struct Mappings {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    source: Box<[u8]>,
    source_has_wildcard: bool,
    /// By ascending weight.
    destinations: Vec<Destination>,
    /// All destinations for monitoring, including those of other clusters.
    told: Vec<ToldDestination>,
}

/// A destination as monitoring shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldDestination {
    pub subject: String,
    /// In percent, accumulated over the destinations of the same cluster up to this one.
    pub weight_end: u8,
    pub cluster: Option<String>,
}

#[derive(Clone, Debug)]
struct Destination {
    subject: String,
    transform: Transform,
    /// Accumulated percentage: the first destination whose value is above a random number below 100
    /// is chosen.
    weight_end: u8,
}

/// The outcome of mapping a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// No rule matched.
    Unchanged,
    /// The new subject is in the output.
    Changed,
    /// A rule matched but its weights chose no destination: the message is dropped.
    Lost,
}

impl Mappings {
    /// Compiles the mappings of one account.
    ///
    /// # Errors
    /// If a source or destination is refused; the text tells the operator which and why.
    pub fn compile(
        options: &[MappingOptions],
        account_name: &str,
        cluster_name: Option<&str>,
    ) -> Result<Self, MappingError> {
        let mut rules: Vec<Rule> = Vec::new();
        for options in options {
            let rule = Rule::compile(options, account_name, cluster_name)?;
            // The same source again replaces the earlier rule.
            match rules.iter_mut().find(|known| known.source == rule.source) {
                Some(known) => *known = rule,
                None => rules.push(rule),
            }
        }
        Ok(Self { rules })
    }

    /// Compiles those that are good; `refuse` is told about the others.
    pub(super) fn compile_each(
        options: &[MappingOptions],
        account_name: &str,
        cluster_name: Option<&str>,
        mut refuse: impl FnMut(MappingError),
    ) -> Self {
        let mut mappings = Self { rules: Vec::new() };
        for options in options {
            match Self::compile(std::slice::from_ref(options), account_name, cluster_name) {
                Ok(one) => mappings.rules.extend(one.rules),
                Err(error) => refuse(error),
            }
        }
        mappings
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns every source with its destinations.
    pub fn told(&self) -> impl Iterator<Item = (&[u8], &[ToldDestination])> {
        self.rules.iter().map(|rule| (&*rule.source, &rule.told[..]))
    }

    /// Looks up the destination of `subject`. `output` is cleared and then holds the new subject,
    /// if there is one.
    pub fn map(&self, subject: &[u8], random: &mut fastrand::Rng, output: &mut Vec<u8>) -> Mapped {
        output.clear();
        let tokens: SmallVec<[&[u8]; 32]> = subject::tokens(subject).collect();
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(subject, &tokens)) else {
            return Mapped::Unchanged;
        };
        let chosen = match &rule.destinations[..] {
            [only] if only.weight_end == 100 => Some(only),
            several => {
                let number = random.u8(..100);
                several.iter().find(|destination| number < destination.weight_end)
            }
        };
        match chosen {
            Some(destination) => {
                destination.transform.apply(subject, &tokens, random, output);
                Mapped::Changed
            }
            None => Mapped::Lost,
        }
    }
}

impl Rule {
    fn compile(
        input: &MappingOptions,
        account_name: &str,
        cluster_name: Option<&str>,
    ) -> Result<Self, MappingError> {
        let plain = input.destinations.first().filter(|_| input.is_plain);
        let fail = |reason| MappingError {
            place: input.place.clone(),
            source: input.source.clone(),
            destination: plain.map(|destination| destination.subject.clone()),
            reason,
        };
        if !subject::is_valid_filter(input.source.as_bytes()) {
            return Err(fail(Reason::BadSource));
        }
        let bad = |error| fail(Reason::Transform(error));
        let expand = |subject| account_functions::expand(subject, account_name);
        let source = expand(&input.source).map_err(bad)?;
        let source_has_wildcard = subject::has_wildcard(source.as_bytes());
        // By cluster; None = for servers whose cluster has no list of its own.
        let mut groups: BTreeMap<Option<&str>, Vec<Destination>> = BTreeMap::new();
        groups.insert(None, Vec::new());
        let mut listed: HashSet<Cow<'_, str>> = HashSet::new();
        for destination in &input.destinations {
            let subject = expand(&destination.subject).map_err(bad)?;
            if !listed.insert(subject.clone()) {
                return Err(fail(Reason::Duplicate(subject.into_owned())));
            }
            if destination.weight > 100 {
                return Err(fail(Reason::Weight));
            }
            let group = groups.entry(destination.cluster.as_deref()).or_default();
            let total: u32 = group.iter().map(|known| u32::from(known.weight_end)).sum();
            if total + u32::from(destination.weight) > 100 {
                return Err(fail(Reason::TotalWeight));
            }
            // Destinations of other clusters are checked too, so that one file is valid for all
            // servers.
            let transform = Transform::compile(&source, &subject).map_err(bad)?;
            let (subject, weight_end) = (subject.into_owned(), destination.weight);
            group.push(Destination { subject, transform, weight_end });
        }
        for destinations in groups.values_mut() {
            let total: u8 = destinations.iter().map(|destination| destination.weight_end).sum();
            // The rest of 100 percent keeps the subject, unless the source is listed itself: then
            // the loss is wanted.
            if total != 100 && !listed.contains(&source) {
                let transform = Transform::compile(&source, &identity_of(&source)).map_err(bad)?;
                let (subject, weight_end) = (source.to_string(), 100 - total);
                destinations.push(Destination { subject, transform, weight_end });
            }
            destinations.sort_by_key(|destination| destination.weight_end);
            let mut end = 0;
            for destination in destinations {
                end += destination.weight_end;
                destination.weight_end = end;
            }
        }
        let told = groups.iter().flat_map(|(cluster, destinations)| {
            destinations.iter().map(|destination| ToldDestination {
                subject: destination.subject.clone(),
                weight_end: destination.weight_end,
                cluster: cluster.map(str::to_owned),
            })
        });
        let told = told.collect();
        let own = cluster_name.and_then(|name| groups.remove(&Some(name)));
        let destinations = own.or_else(|| groups.remove(&None)).unwrap_or_default();
        Ok(Self { source: source.as_bytes().into(), source_has_wildcard, destinations, told })
    }

    /// Returns true if the source matches. A wildcard token in the published subject is matched
    /// only by a wildcard at least as wide, an empty token only by `>`.
    fn matches(&self, subject: &[u8], tokens: &[&[u8]]) -> bool {
        if !self.source_has_wildcard {
            return *self.source == *subject;
        }
        let mut found = tokens.iter();
        for want in subject::tokens(&self.source) {
            let Some(&token) = found.next() else { return false };
            match want {
                b">" => return true,
                _ if token.is_empty() || token == b">" => return false,
                b"*" => {}
                _ if want == token => {}
                _ => return false,
            }
        }
        found.next().is_none()
    }
}

/// Returns the destination that leaves every subject matched by the source unchanged.
fn identity_of(source: &str) -> String {
    let mut star_count = 0;
    let tokens: Vec<String> = source
        .split('.')
        .map(|token| {
            if token == "*" {
                star_count += 1;
                format!("${star_count}")
            } else {
                token.to_owned()
            }
        })
        .collect();
    tokens.join(".")
}

/// A mapping that was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct MappingError {
    /// Its place in the file; empty if it does not come from a file.
    pub place: Place,
    pub source: String,
    /// Its destination, if the file gives no weights.
    pub destination: Option<String>,
    pub reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    BadSource,
    /// A function or a destination is wrong.
    Transform(TransformError),
    Duplicate(String),
    Weight,
    TotalWeight,
}

impl fmt::Display for MappingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = &self.source;
        if !self.place.0.is_empty() {
            write!(formatter, "{}: ", self.place.0)?;
        }
        if self.reason == Reason::BadSource {
            return write!(formatter, "Subject {source:?} is not a valid subject");
        }
        write!(formatter, "Error adding mapping for {source:?}")?;
        if let Some(destination) = &self.destination {
            write!(formatter, " to {destination:?}")?;
        }
        formatter.write_str(" : ")?;
        match &self.reason {
            Reason::BadSource => Ok(()),
            Reason::Transform(error) => write!(formatter, "{error}"),
            Reason::Duplicate(subject) => write!(formatter, "duplicate entry for {subject:?}"),
            Reason::Weight => formatter.write_str("individual weights need to be <= 100"),
            Reason::TotalWeight => formatter.write_str("total weight needs to be <= 100"),
        }
    }
}

impl std::error::Error for MappingError {}

#[cfg(test)]
mod tests;

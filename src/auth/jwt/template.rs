//! Templates of scoped signing keys: `{{name()}}`, `{{tag(team)}}` and others in a permission stand
//! for what the user's JWT or the account says.
//!
//! Source of the behaviour: nats-server server/auth.go processUserPermissionsTemplate.

use super::claims::{SubjectLists, UserClaims, UserRights};
use crate::base::limits::TEMPLATE_SUBJECTS_MAX;
use crate::protocol::subject;

/// The values that templates refer to.
#[derive(Clone, Copy)]
pub(crate) struct TemplateValues<'a> {
    pub user: &'a UserClaims,
    /// The account's name as its owner calls it.
    pub account_name: &'a str,
    pub account_tags: &'a [String],
}

/// A template that cannot be applied to a user: the login is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadTemplate;

/// Returns the rights that a template gives to a user.
///
/// # Errors
/// If a denied subject would be none, a function is unknown, or there would be too many subjects.
pub(crate) fn apply(
    template: &UserRights,
    values: TemplateValues<'_>,
) -> Result<UserRights, BadTemplate> {
    let mut rights = template.clone();
    for lists in [&mut rights.permissions.subscribe, &mut rights.permissions.publish] {
        apply_to_lists(lists, values)?;
    }
    Ok(rights)
}

fn apply_to_lists(lists: &mut SubjectLists, values: TemplateValues<'_>) -> Result<(), BadTemplate> {
    let was_restricted = !lists.allow.is_empty();
    lists.allow = expand(&lists.allow, values, false)?;
    lists.deny = expand(&lists.deny, values, true)?;
    // An empty list would allow everything.
    if was_restricted && lists.allow.is_empty() && !lists.deny.iter().any(|deny| deny == ">") {
        lists.deny.push(">".to_owned());
    }
    Ok(())
}

/// A piece of an entry.
enum Piece<'a> {
    Text(&'a str),
    /// What stands between the braces.
    Function(&'a str),
}

/// Splits an entry into its functions, each the shortest `{{…}}`, and the text between them.
fn pieces(entry: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = entry;
    while let Some(start) = rest.find("{{") {
        let Some(length) = rest[start + 2..].find("}}") else { break };
        // At least one character, as in nats-server's pattern.
        if length == 0 {
            break;
        }
        pieces.push(Piece::Text(&rest[..start]));
        pieces.push(Piece::Function(rest[start + 2..start + 2 + length].trim()));
        rest = &rest[start + 2 + length + 2..];
    }
    pieces.push(Piece::Text(rest));
    pieces
}

/// Replaces the functions of a list. An entry that becomes an invalid subject is left out, or
/// refused if `is_strict`.
fn expand(
    list: &[String],
    values: TemplateValues<'_>,
    is_strict: bool,
) -> Result<Vec<String>, BadTemplate> {
    let has_function =
        |entry: &String| pieces(entry).iter().any(|piece| matches!(piece, Piece::Function(_)));
    if !list.iter().any(has_function) {
        return Ok(list.to_vec());
    }
    let mut expanded = Vec::new();
    for entry in list {
        // Each value of a tag multiplies what there is.
        let mut texts = vec![String::new()];
        for piece in pieces(entry) {
            match piece {
                Piece::Text(text) => texts.iter_mut().for_each(|all| all.push_str(text)),
                Piece::Function(function) => {
                    let found = values.of(function, is_strict)?;
                    if expanded.len() + texts.len() * found.len() > TEMPLATE_SUBJECTS_MAX {
                        return Err(BadTemplate);
                    }
                    let with = |all: &String| {
                        let all = all.clone();
                        found.iter().map(move |value| format!("{all}{value}"))
                    };
                    texts = texts.iter().flat_map(with).collect();
                }
            }
        }
        for text in texts {
            if is_valid(&text) {
                expanded.push(text);
            } else if is_strict {
                return Err(BadTemplate);
            }
        }
    }
    Ok(expanded)
}

/// As nats-server asks it here: a subject without blanks, so entries with a queue do not count.
fn is_valid(text: &str) -> bool {
    subject::is_valid_filter(text.as_bytes())
}

impl TemplateValues<'_> {
    fn of(&self, function: &str, is_strict: bool) -> Result<Vec<String>, BadTemplate> {
        let one = |text: &str| Ok(vec![text.to_owned()]);
        let is = |name: &str| function.eq_ignore_ascii_case(name);
        if is("name()") {
            return one(&self.user.common.name);
        }
        if is("subject()") {
            return one(&self.user.common.subject);
        }
        if is("account-name()") {
            return one(self.account_name);
        }
        if is("account-subject()") {
            return one(&self.user.user.issuer_account);
        }
        let (tags, tag) = if let Some(tag) = argument(function, "tag") {
            (&*self.user.user.tags, tag)
        } else if let Some(tag) = argument(function, "account-tag") {
            (self.account_tags, tag)
        } else {
            return Err(BadTemplate);
        };
        let prefix = format!("{}:", tag.to_lowercase());
        let found: Vec<String> =
            tags.iter().filter_map(|tag| tag.strip_prefix(&*prefix)).map(str::to_owned).collect();
        match found.is_empty() {
            false => Ok(found),
            true if is_strict => Err(BadTemplate),
            // No subject has a blank: the entry is left out.
            true => one(" "),
        }
    }
}

/// Returns the argument of `name(argument)`.
fn argument<'a>(function: &'a str, name: &str) -> Option<&'a str> {
    let (called, rest) = function.split_once('(')?;
    called.eq_ignore_ascii_case(name).then_some(rest)?.strip_suffix(')')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserClaims {
        let mut user = UserClaims::default();
        user.common.name = "bob".into();
        user.common.subject = "UBOB".into();
        user.user.issuer_account = "AACC".into();
        user.user.tags = ["team:a", "team:b", "level:1", "solo"].map(String::from).into();
        user
    }

    fn applied(allow: &[&str], deny: &[&str]) -> Result<(Vec<String>, Vec<String>), BadTemplate> {
        let list = |list: &[&str]| list.iter().map(|entry| (*entry).to_owned()).collect();
        let mut template = UserRights::default();
        template.permissions.publish = SubjectLists { allow: list(allow), deny: list(deny) };
        let account_tags = ["zone:eu".to_owned()];
        let values =
            TemplateValues { user: &user(), account_name: "Acme", account_tags: &account_tags };
        let SubjectLists { allow, deny } = apply(&template, values)?.permissions.publish;
        Ok((allow, deny))
    }

    #[test]
    fn functions_are_replaced_in_any_case_and_anywhere() {
        let (allow, _) = applied(
            &[
                "u.{{name()}}.>",
                "{{ SUBJECT() }}",
                "a.{{account-name()}}-{{account-subject()}}",
                "z.{{account-tag(Zone)}}",
                "plain",
            ],
            &[],
        )
        .unwrap();
        assert_eq!(allow, ["u.bob.>", "UBOB", "a.Acme-AACC", "z.eu", "plain"]);
    }

    #[test]
    fn values_of_a_tag_multiply() {
        let (allow, deny) = applied(&["{{tag(team)}}.{{tag(level)}}"], &["{{Tag(team)}}"]).unwrap();
        assert_eq!(allow, ["a.1", "b.1"]);
        assert_eq!(deny, ["a", "b"]);
    }

    #[test]
    fn what_becomes_invalid_is_left_out_of_what_is_allowed_and_refused_in_what_is_denied() {
        assert_eq!(applied(&["x.{{tag(no)}}", "y"], &[]).unwrap().0, ["y"]);
        // Nothing is left of the list, so nothing is allowed.
        let (allow, deny) = applied(&["x.{{tag(no)}}"], &[]).unwrap();
        assert_eq!((allow.len(), deny), (0, vec![">".to_owned()]));
        assert_eq!(applied(&[], &["x.{{tag(no)}}"]), Err(BadTemplate));
        assert_eq!(applied(&["{{what()}}"], &[]), Err(BadTemplate));
    }

    #[test]
    fn a_template_makes_no_more_subjects_than_the_bound() {
        let mut user = user();
        user.user.tags = (0..16).map(|tag| format!("t:{tag}")).collect();
        let values = TemplateValues { user: &user, account_name: "", account_tags: &[] };
        let expanded = |text: &str| expand(&[text.to_owned()], values, false);
        let three = "{{tag(t)}}.{{tag(t)}}.{{tag(t)}}";
        assert_eq!(expanded(three).map(|all| all.len()), Ok(TEMPLATE_SUBJECTS_MAX));
        assert_eq!(expanded(&format!("{three}.{{{{tag(t)}}}}")), Err(BadTemplate));
    }
}

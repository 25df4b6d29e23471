//! Groups the same warning of many runs into one, with the runs that it applies to.

use crate::findings::result::RunResult;

struct Group<'a> {
    text: &'a str,
    /// The rounds in which it was given, by side.
    sides: Vec<(&'a str, Vec<u32>)>,
}

/// Returns one sentence per text: `text (A: rounds 1, 2; B: round 1)`. For single runs just the
/// text.
pub fn grouped<'a>(
    runs: impl Iterator<Item = &'a RunResult>,
    texts_of: impl Fn(&'a RunResult) -> &'a [String],
) -> Vec<String> {
    let mut groups: Vec<Group> = Vec::new();
    for run in runs {
        for text in texts_of(run) {
            let place = groups.iter().position(|group| group.text == text).unwrap_or_else(|| {
                groups.push(Group { text, sides: Vec::new() });
                groups.len() - 1
            });
            let sides = &mut groups[place].sides;
            let round = run.round + 1;
            match sides.iter_mut().find(|(side, _)| *side == run.side) {
                None => sides.push((&run.side, vec![round])),
                Some((_, rounds)) if rounds.contains(&round) => {}
                Some((_, rounds)) => rounds.push(round),
            }
        }
    }
    groups.iter().map(|group| format!("{}{}", group.text, sides_text(&group.sides))).collect()
}

fn sides_text(sides: &[(&str, Vec<u32>)]) -> String {
    let named: Vec<String> = sides
        .iter()
        .filter(|(side, _)| !side.is_empty())
        .map(|(side, rounds)| {
            let plural = if rounds.len() > 1 { "rounds" } else { "round" };
            let rounds: Vec<String> = rounds.iter().map(ToString::to_string).collect();
            format!("{side}: {plural} {}", rounds.join(", "))
        })
        .collect();
    if named.is_empty() { String::new() } else { format!(" ({})", named.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_warnings_are_given_once() {
        let run = |side: &str, round, text: &str| {
            let mut run = RunResult::new("latency", "x");
            run.side = side.to_string();
            run.round = round;
            run.warn(text.to_string());
            run
        };
        let runs = [run("A", 0, "x"), run("B", 0, "x"), run("A", 2, "x"), run("", 0, "y")];
        assert_eq!(
            grouped(runs.iter(), |run| &run.warnings),
            ["x (A: rounds 1, 3; B: round 1)", "y"]
        );
    }
}

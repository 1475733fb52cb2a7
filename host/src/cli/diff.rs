//! `diff`: says in which evaluations two backends differ, and repairs that on request.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use storage_plugin_api::Error;

use super::Global;
use super::output::{self, Output, plain};
use super::progress::Progress;
use super::storage::Access;
use super::upkeep::{Reach, listen, must_differ, must_list, say_why, total};
use crate::storage::upkeep::compare::{Compared, Comparing, Difference, Side};

/// Say in which evaluations and registers two backends differ
///
/// Goes through both in the order of the ids and compares digests of the stored states, of bodies (code, output, error)
/// their hashes. Both may be in use: what differs is read again until it has stood still for longer than a merge may take
/// (`storage.call_timeout`). A delete leaves no trace, so an
/// evaluation that was deleted in one backend is shown as being only in the other, and `--repair` brings it back.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// One backend, by its name in `[backends]`
    #[arg(value_name = "A")]
    a: String,

    /// The other one
    #[arg(value_name = "B")]
    b: String,

    /// Merge what differs from A into B and from B into A
    #[arg(long)]
    repair: bool,

    /// Evaluations a second, at most [default: no limit]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    #[command(flatten)]
    reach: Reach,
}

/// Beyond the time that a merge may take, which may have reached only one of the two.
const SETTLE: Duration = Duration::from_secs(1);

const AFTER_HELP: &str = "\
Examples:
  storage-worker diff disk pg
  storage-worker diff disk pg --repair
  storage-worker diff disk pg --output json | jq -r '.differences[].id'

Backends of the running worker are reached through it (`admin.listen`); others are opened here.

Exit codes: 0 equal (or made so), 1 different, interrupted or storage failed, 2 wrong usage or configuration";

pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let Arguments { a, b, repair, rate, reach } = arguments;
    must_differ(a, b)?;
    let storage = reach.storage(&global.load()?, &[a, b], if *repair { Access::Write } else { Access::Read })?;
    let [one, other] = storage.backends() else { unreachable!("two backends were asked for") };
    must_list(one)?;
    must_list(other)?;
    let is_told_to_end = listen()?;
    let progress = Progress::start("compared", total(one, &storage.call()), 0);
    let waiting = say_why(&progress);
    let patience = reach.patience(storage.call_timeout(), &waiting, &is_told_to_end);
    let (settle, rate) = (storage.call_timeout() + SETTLE, *rate);
    let comparing =
        Comparing { a: &*one.backend, b: &*other.backend, patience: &patience, repair: *repair, rate, settle };
    let (mut answer, mut so_far) = (Answer { format: global.output, names: [a, b], shown: 0 }, Compared::default());
    let mut report = |compared: &Compared, difference: Option<&Difference>| {
        progress.at(compared.compared);
        so_far = compared.clone();
        difference.map_or(Ok(()), |difference| answer.show(difference, &progress))
    };
    let result = comparing.run(&mut report);
    progress.end();
    // What was found is told whatever happens then, and is JSON.
    let compared = result.as_ref().unwrap_or(&so_far);
    if result.is_ok() || global.output == Output::Json {
        output::print(&answer.end(compared, *repair)?)?;
    }
    let compared = result.with_context(|| format!("`{a}` and `{b}` were not compared to the end"))?;
    let is_equal = compared.complete && compared.different == compared.repaired;
    Ok(if is_equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is written bit by bit.
struct Answer<'a> {
    format: Output,
    names: [&'a str; 2],
    shown: u64,
}

impl Answer<'_> {
    fn show(&mut self, difference: &Difference, progress: &Progress) -> Result<(), Error> {
        let text = match self.format {
            Output::Text => format!("{}\n", plain(&line(difference, self.names))),
            Output::Json => {
                let json = serde_json::to_string(difference).map_err(Error::internal)?;
                format!("{}{json}", if self.shown == 0 { self.start() } else { ",".to_owned() })
            }
        };
        self.shown += 1;
        match progress.answer(&text) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::configuration("nobody reads the answer any more")),
            Err(error) => Err(Error::configuration(format_args!("the answer cannot be written: {error}"))),
        }
    }

    fn start(&self) -> String {
        format!("{{\"a\":{},\"b\":{},\"differences\":[", json!(self.names[0]), json!(self.names[1]))
    }

    fn end(&self, compared: &Compared, repair: bool) -> anyhow::Result<String> {
        Ok(match self.format {
            Output::Text => summary(compared, self.names, repair),
            Output::Json => {
                let start = if self.shown == 0 { self.start() } else { String::new() };
                let figures = serde_json::to_string(compared)?;
                format!("{start}],{}", figures.trim_start_matches('{'))
            }
        })
    }
}

fn line(difference: &Difference, names: [&str; 2]) -> String {
    let name = |side: Side| match side {
        Side::A => names[0],
        Side::B => names[1],
    };
    let mut line = match difference.only_in {
        Some(side) => format!("{}  only in `{}`", difference.id, name(side)),
        None => {
            let register = |register: &crate::storage::upkeep::compare::RegisterDifference| match register.only_in {
                Some(side) => format!("{} (only in `{}`)", register.name, name(side)),
                None => register.name.clone(),
            };
            let registers: Vec<_> = difference.registers.iter().map(register).collect();
            format!("{}  differs in {}", difference.id, registers.join(", "))
        }
    };
    if difference.repaired {
        line.push_str("; repaired");
    } else if difference.changing {
        line.push_str("; still changing");
    }
    for refusal in &difference.refused {
        line.push_str(&format!("; `{}` does not take it: {}", name(refusal.by), refusal.reason));
    }
    line
}

fn summary(compared: &Compared, [a, b]: [&str; 2], repair: bool) -> String {
    let Compared { compared: total, different, only_in_a, only_in_b, repaired, complete } = compared;
    let mut text = match different {
        0 => format!("`{a}` and `{b}` hold the same {total} evaluations"),
        _ => {
            let in_both = different - only_in_a - only_in_b;
            format!(
                "{different} of {total} evaluations differ: {only_in_a} only in `{a}`, {only_in_b} only in `{b}`, {in_both} in both"
            )
        }
    };
    if repair && *different > 0 {
        text.push_str(&format!("; {repaired} repaired"));
    }
    text.push_str(match (different, repair) {
        (0, _) => "; a delete leaves no trace, so what was deleted in both cannot be seen\n",
        (_, true) => "; what was deleted in one of the two is back\n",
        (_, false) => {
            "\na delete leaves no trace: what is only in one may have been deleted in the other, and `--repair`, which merges both ways, brings it back\n"
        }
    });
    if !complete {
        text.push_str("interrupted before everything was compared\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::upkeep::compare::{Refusal, RegisterDifference};

    #[test]
    fn a_difference_is_one_line() {
        let register = |name: &str, only_in| RegisterDifference { name: name.to_owned(), only_in };
        let mut difference = Difference {
            id: "e-7".to_owned(),
            only_in: None,
            changing: false,
            registers: vec![register("code", None), register("end/failed", Some(Side::B))],
            repaired: true,
            refused: Vec::new(),
        };

        let differs = line(&difference, ["disk", "pg"]);
        difference.only_in = Some(Side::A);
        difference.repaired = false;
        difference.changing = true;
        let changes = line(&difference, ["disk", "pg"]);
        difference.changing = false;
        difference.refused = vec![Refusal { by: Side::B, reason: "it is too long".to_owned() }];

        assert_eq!(differs, "e-7  differs in code, end/failed (only in `pg`); repaired");
        assert_eq!(changes, "e-7  only in `disk`; still changing");
        assert_eq!(line(&difference, ["disk", "pg"]), "e-7  only in `disk`; `pg` does not take it: it is too long");
    }
}

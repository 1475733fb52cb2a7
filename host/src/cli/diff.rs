//! `diff`: says in which evaluations two backends differ, and repairs that on request.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use storage_plugin_api::Error;

use super::Global;
use super::output::{Output, plain};
use super::progress::Progress;
use super::storage::{Access, Storage};
use super::upkeep::{GiveUp, must_differ, must_list, say_why, total};
use crate::storage::upkeep::compare::{Compared, Comparing, Difference, Side};

/// Say in which evaluations and registers two backends differ
///
/// Goes through both in the order of the ids and compares digests of the stored states, of bodies (code, output, error)
/// their hashes. Both may be in use: what differs is read again until it stands still. A delete leaves no trace, so an
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

    #[command(flatten)]
    give_up: GiveUp,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker diff disk pg
  storage-worker diff disk pg --repair
  storage-worker diff disk pg --output json | jq -r '.differences[].id'

Backends of the running worker are reached through it (`admin.listen`); others are opened here.

Exit codes: 0 equal (or made so), 1 different or storage failed, 2 wrong usage or configuration";

pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let Arguments { a, b, repair, give_up } = arguments;
    must_differ(a, b)?;
    let storage = Storage::named(&global.load()?, &[a, b], if *repair { Access::Write } else { Access::Read })?;
    let [one, other] = storage.backends() else { unreachable!("two backends were asked for") };
    must_list(one)?;
    must_list(other)?;
    let progress = Progress::start("compared", total(one, &storage.call()));
    let waiting = say_why(&progress);
    let patience = give_up.patience(storage.call_timeout(), &waiting);
    let comparing = Comparing { a: &*one.backend, b: &*other.backend, patience: &patience, repair: *repair };
    let mut shown = 0_u64;
    let mut report = |compared: &Compared, difference: Option<&Difference>| {
        progress.at(compared.compared);
        let Some(difference) = difference else { return Ok(()) };
        let text = match global.output {
            Output::Text => format!("{}\n", plain(&line(difference, [a, b]))),
            Output::Json => {
                let start = if shown == 0 { "{\"differences\":[" } else { "," };
                format!("{start}{}", serde_json::to_string(difference).map_err(Error::internal)?)
            }
        };
        shown += 1;
        match progress.answer(&text) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::configuration("nobody reads the answer any more")),
            Err(error) => Err(Error::configuration(format_args!("the answer cannot be written: {error}"))),
        }
    };
    let compared = comparing.run(&mut report);
    progress.end();
    let compared = compared.with_context(|| format!("`{a}` and `{b}` were not compared to the end"))?;
    match global.output {
        Output::Text => super::output::print(&summary(&compared, [a, b], *repair))?,
        Output::Json => {
            let start = if shown == 0 { "{\"differences\":[" } else { "" };
            let figures = serde_json::to_string(&compared)?;
            super::output::print(&format!("{start}],{}", figures.trim_start_matches('{')))?;
        }
    }
    Ok(if compared.different == compared.repaired { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
    line
}

fn summary(compared: &Compared, [a, b]: [&str; 2], repair: bool) -> String {
    let Compared { compared: total, different, only_in_a, only_in_b, repaired } = compared;
    if *different == 0 {
        return format!("`{a}` and `{b}` hold the same {total} evaluations; deletes cannot be seen\n");
    }
    let mut text =
        format!("{different} of {total} evaluations differ: {only_in_a} only in `{a}`, {only_in_b} only in `{b}`");
    text.push_str(&format!(", {} in both", different - only_in_a - only_in_b));
    if repair {
        text.push_str(&format!("; {repaired} repaired"));
    } else {
        text.push_str("; `--repair` merges them both ways, and brings back what was deleted in one of the two");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::upkeep::compare::RegisterDifference;

    #[test]
    fn a_difference_is_one_line() {
        let register = |name: &str, only_in| RegisterDifference { name: name.to_owned(), only_in };
        let mut difference = Difference {
            id: "e-7".to_owned(),
            only_in: None,
            changing: false,
            registers: vec![register("code", None), register("end/failed", Some(Side::B))],
            repaired: true,
        };

        let differs = line(&difference, ["disk", "pg"]);
        difference.only_in = Some(Side::A);
        difference.repaired = false;
        difference.changing = true;

        assert_eq!(differs, "e-7  differs in code, end/failed (only in `pg`); repaired");
        assert_eq!(line(&difference, ["disk", "pg"]), "e-7  only in `disk`; still changing");
    }
}

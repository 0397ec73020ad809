//! The outcomes as a Markdown table.

use std::time::Duration;

use blocking_or_not::{ClientOutcome, Delays, Experiment, Outcome, Reported, Verdict};

const WIDTHS: [usize; 7] = [3, 40, 14, 7, 39, 18, 18];

pub(crate) fn heading() -> String {
    let names = [
        "#",
        "scenario",
        "runtime",
        "clients",
        "responses after (s)",
        "fresh delayed",
        "kept-alive delayed",
    ];
    let names = row(&names.map(str::to_owned));
    let rule = WIDTHS.map(|width| "-".repeat(width + 2)).join("|");
    format!("{names}as expected | reported |\n|{rule}|-------------|---|")
}

pub(crate) fn line(experiment: &Experiment, outcome: &Outcome, verdict: &Verdict) -> String {
    let scenario = experiment.scenario;
    let rounds = match scenario.rounds {
        1 => String::new(),
        rounds => format!(" × {rounds}"),
    };
    let cells = row(&[
        scenario.number.to_owned(),
        scenario.what.to_owned(),
        experiment.flavor.to_string(),
        format!("{}{rounds}", experiment.clients),
        outcome.responses.iter().map(response).collect::<Vec<_>>().join(" "),
        delays(outcome.bystanders.fresh),
        delays(outcome.bystanders.kept_alive),
    ]);
    format!("{cells}{:<11} | {} |", as_expected(verdict), Reported(outcome))
}

fn row(cells: &[String; 7]) -> String {
    let padded = cells.iter().zip(WIDTHS).map(|(cell, width)| format!("| {cell:<width$} "));
    padded.collect::<String>() + "| "
}

fn response(response: &ClientOutcome) -> String {
    match response {
        ClientOutcome::After(time) => seconds(*time),
        ClientOutcome::Failed => "failed".into(),
        ClientOutcome::Never => "never".into(),
    }
}

fn delays(delays: Delays) -> String {
    let Delays { total, delayed, worst } = delays;
    match delayed {
        0 => format!("0 of {total}"),
        _ => format!("{delayed} of {total}, {} s", seconds(worst)),
    }
}

fn as_expected(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::AsExpected => "yes",
        Verdict::Unexpected(_) => "NO",
        Verdict::Disturbed => "disturbed",
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_docs_has_the_heading() {
        let docs = include_str!("../../../docs/blocking.md");
        assert!(docs.contains(&format!("\n{}\n", heading())), "{}", heading());
    }
}

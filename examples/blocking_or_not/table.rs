//! The outcomes as one table, in Markdown, a row at a time.

use std::time::Duration;

use crate::lab::{Answer, Experiment, Judgement, Outcome, Told, Victims};

const WIDTHS: [usize; 7] = [3, 40, 14, 7, 39, 18, 18];

pub(crate) fn heading() -> String {
    let names =
        row(&["#", "what is done", "runtime", "clients", "answered after (s)", "others delayed", "kept-alive hit"]
            .map(str::to_owned));
    let rule = WIDTHS.map(|width| "-".repeat(width + 2)).join("|");
    format!("{names}as expected | told by the layer |\n|{rule}|-------------|---|")
}

pub(crate) fn line(experiment: &Experiment, outcome: &Outcome, judgement: &Judgement) -> String {
    let scenario = experiment.scenario;
    let cells = row(&[
        scenario.number.to_owned(),
        scenario.what.to_owned(),
        experiment.flavor.to_string(),
        experiment.clients.to_string()
            + &if scenario.rounds > 1 { format!(" × {}", scenario.rounds) } else { String::new() },
        outcome.answers.iter().map(answer).collect::<Vec<_>>().join(" "),
        victims(outcome.bystanders.fresh),
        victims(outcome.bystanders.kept_alive),
    ]);
    format!("{cells}{:<11} | {} |", verdict(judgement), Told(outcome))
}

fn row(cells: &[String; 7]) -> String {
    let padded = cells.iter().zip(WIDTHS).map(|(cell, width)| format!("| {cell:<width$} "));
    padded.collect::<String>() + "| "
}

fn answer(answer: &Answer) -> String {
    match answer {
        Answer::After(time) => seconds(*time),
        Answer::Failed => "failed".into(),
        Answer::Never => "never".into(),
    }
}

fn victims(victims: Victims) -> String {
    match victims.delayed {
        0 => format!("0 of {}", victims.asked),
        delayed => format!("{delayed} of {}, {} s", victims.asked, seconds(victims.worst)),
    }
}

fn verdict(judgement: &Judgement) -> &'static str {
    match judgement {
        Judgement::Right => "yes",
        Judgement::Wrong(_) => "NO",
        Judgement::Disturbed => "disturbed",
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

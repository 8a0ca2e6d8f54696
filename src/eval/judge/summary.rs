//! Judgments as a table: what FastChat's `show_result.py` prints, and the same by category.

use super::Judgment;

/// A column of the table: one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The model.
    pub model: String,
    /// One for each of [`Table::rows`].
    pub cells: Vec<Cell>,
}

/// The judgments of one row and column.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cell {
    /// The mean score, or the share of wins with ties as a half; `None` without any.
    pub value: Option<f64>,
    /// How many judgments that is of.
    pub judged: usize,
    /// How many more there are without a score.
    pub unscored: usize,
    /// Wins, ties and losses, where answers are compared.
    pub games: [usize; 3],
}

/// Categories, turns and the whole down, models across.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The rows' names: each category in the order of the questions, `turn 1`, `turn 2`, `average`.
    pub rows: Vec<String>,
    /// One per model, the best first.
    pub columns: Vec<Column>,
}

/// The table of judgments that come with the category of their question. A model whose answers are compared with a baseline's
/// has a column, the baseline has none.
pub fn table<'a>(judgments: impl Iterator<Item = (&'a str, &'a Judgment)> + Clone) -> Table {
    let (mut categories, mut models): (Vec<&str>, Vec<&str>) = Default::default();
    for (category, judgment) in judgments.clone() {
        if !categories.contains(&category) {
            categories.push(category);
        }
        if !models.contains(&model(judgment)) {
            models.push(model(judgment));
        }
    }
    let cell = |of: &str, keep: &dyn Fn(&str, &Judgment) -> bool| {
        let kept = judgments.clone().filter(|(category, judgment)| keep(category, judgment));
        Cell::of(kept.map(|(_, judgment)| judgment).filter(|judgment| model(judgment) == of))
    };
    let column = |&name: &&str| {
        let by_category =
            categories.iter().map(|wanted| cell(name, &|category: &str, _: &Judgment| category == *wanted));
        let by_turn =
            [1, 2].map(|wanted| cell(name, &|_: &str, judgment: &Judgment| turn(judgment) == wanted));
        let cells = by_category.chain(by_turn).chain([cell(name, &|_, _| true)]).collect();
        Column { model: name.to_owned(), cells }
    };
    let mut columns: Vec<Column> = models.iter().map(column).collect();
    let average =
        |column: &Column| column.cells.last().and_then(|cell| cell.value).unwrap_or(f64::NEG_INFINITY);
    columns.sort_by(|a, b| average(b).total_cmp(&average(a)));
    let rows = categories.iter().copied().chain(["turn 1", "turn 2", "average"]).map(str::to_owned).collect();
    Table { rows, columns }
}

impl Cell {
    fn of<'a>(judgments: impl Iterator<Item = &'a Judgment>) -> Self {
        let mut cell = Cell::default();
        let mut sum = 0.0;
        for judgment in judgments {
            if !judgment.is_scored() {
                cell.unscored += 1;
                continue;
            }
            cell.judged += 1;
            sum += match judgment {
                Judgment::Single(single) => single.score,
                Judgment::Pair(pair) => {
                    // Whoever wins in one order alone has not won.
                    let game = match (pair.g1_winner.as_str(), pair.g2_winner.as_str()) {
                        ("model_1", "model_1") => 0,
                        ("model_2", "model_2") => 2,
                        _ => 1,
                    };
                    cell.games[game] += 1;
                    [1.0, 0.5, 0.0][game]
                }
            };
        }
        cell.value = (cell.judged > 0).then(|| sum / cell.judged as f64);
        cell
    }
}

fn model(judgment: &Judgment) -> &str {
    match judgment {
        Judgment::Single(single) => &single.model,
        Judgment::Pair(pair) => &pair.model_1,
    }
}

fn turn(judgment: &Judgment) -> usize {
    match judgment {
        Judgment::Single(single) => single.turn,
        Judgment::Pair(pair) => pair.turn,
    }
}

//! What the targets of the data path hold every encoded row to.

use std::path::Path;
use std::sync::LazyLock;

use asft::data::{
    Annotation, ColumnMap, EncodeConfig, Encoded, Encoder, FileShape, Needs, Numbering, Role, Roles, Row, Spans, pack,
};
use asft::prepare::{Made, explicit};

const VOCABULARY: usize = 512;
const MAX_LENGTH: usize = 64;

/// For demonstrations; for pairs that say everything a pair can say; for labelled and scored completions. With the
/// tokenizer and the chat template of the quickstart.
static ENCODERS: LazyLock<[Encoder; 3]> = LazyLock::new(|| {
    use Annotation::{Advantages, Label, OldLogps, PromptEmbedding, Score, SoftLabel, Weights};
    let triple = Roles::PAIR.with(Role::Third, true);
    [
        encoder(Needs { answers: Roles::CHOSEN, ..Needs::default() }),
        encoder(Needs { answers: triple, annotations: vec![Score, SoftLabel, Weights, PromptEmbedding], reference: true }),
        encoder(Needs { answers: Roles::COMPLETION, annotations: vec![Label, Score, Advantages, OldLogps], reference: true }),
    ]
});

fn encoder(needs: Needs) -> Encoder {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart"));
    let config = EncodeConfig {
        vocab_size: VOCABULARY,
        max_length: Some(MAX_LENGTH),
        needs,
        eos_ids: vec![2],
        keep_text: true,
        ..EncodeConfig::default()
    };
    Encoder::from_folder(folder, config).expect("the quickstart's files are in the repository")
}

/// Encodes the rows of a file, whose first one says what they are made of; whatever comes out can be packed, and comes out
/// again of the row with an explicit prompt.
pub fn encode(rows: &[Row]) {
    ENCODERS.iter().for_each(|encoder| encode_with(encoder, rows));
}

fn encode_with(encoder: &Encoder, rows: &[Row]) {
    let Some(first) = rows.first() else { return };
    let shape = match encoder.shape(first, Numbering::Lines) {
        Ok(shape) => shape,
        Err(problem) => return assert!(!problem.to_string().is_empty()),
    };
    for row in rows {
        let encoded = encoder.encode_row(&shape, row.index, row);
        if let Ok(Encoded::Group(group, _)) = &encoded {
            assert_eq!(&explicitly(encoder, &shape, row), group);
        }
        match encoded {
            Ok(Encoded::Group(group, _)) => {
                assert!(!group.prompt.is_empty());
                for answer in &group.answers {
                    assert!(answer.scored_tokens() > 0);
                    assert!(answer.scored.as_ref().is_none_or(|scored| scored.len() == answer.ids.len()));
                    assert!(group.prompt.len() + answer.ids.len() <= MAX_LENGTH);
                }
                let ids = group.answers.iter().flat_map(|answer| &answer.ids).chain(&group.prompt);
                assert!(ids.into_iter().all(|&id| (id as usize) < VOCABULARY));
                assert_eq!(pack(&[&group], Spans { prompt: true, answers: Roles::ALL }).check(), Ok(()));
            }
            Ok(Encoded::Unusable(reason)) => assert!(!reason.to_string().is_empty()),
            Err(problem) => assert!(!problem.to_string().is_empty()),
        }
    }
}

/// What becomes of a usable row when its prompt is made explicit.
fn explicitly(encoder: &Encoder, shape: &FileShape, row: &Row) -> asft::data::Group {
    let example = shape.read(&row.columns, &ColumnMap::default()).expect("it was read before");
    let Made::Rows(rows) = explicit::explicit(example, &row.columns) else { panic!("a usable row is kept") };
    let [columns] = <[_; 1]>::try_from(rows).expect("one row of one");
    let row = Row { columns, ..*row };
    let shape = encoder.shape(&row, Numbering::Lines).expect("it has a shape");
    match encoder.encode_row(&shape, row.index, &row) {
        Ok(Encoded::Group(group, _)) => group,
        other => panic!("the explicit row is not usable: {other:?}"),
    }
}

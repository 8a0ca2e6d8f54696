//! Mismatched completions: every row's prompt with the completion of the next row, for KTO's estimate of the drift.
//!
//! Which completion goes to which prompt depends on the order of the rows alone (the last row's is the first's), so it is
//! the same in every epoch and the log-probs of a reference model can be kept. Boundary: groups in memory.

use super::group::{Answer, Group};
use super::role::Role;

/// Adds the next group's completion to every group, cut to what `max_length` leaves beside the prompt.
pub fn add_mismatched(groups: &mut [Group], max_length: Option<usize>) {
    let completions: Vec<Option<Answer>> =
        groups.iter().map(|group| group.answer(Role::Completion).cloned()).collect();
    let next = completions.iter().cycle().skip(1);
    for (group, completion) in groups.iter_mut().zip(next) {
        let Some(Answer { ids, scored, .. }) = completion else { continue };
        let room = max_length.map_or(usize::MAX, |max_length| max_length.saturating_sub(group.prompt.len()));
        let length = ids.len().min(room.max(1));
        let scored = scored.as_ref().map(|scored| scored[..length].to_vec());
        group.answers.push(Answer {
            role: Role::Mismatched,
            ids: ids[..length].to_vec(),
            // What is left of a masked completion may have nothing that is scored: then all of it is.
            scored: scored.filter(|scored| scored.contains(&true)),
            text: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(row: usize, prompt: usize, completion: &[u32]) -> Group {
        let completion =
            Answer { role: Role::Completion, ids: completion.to_vec(), scored: None, text: None };
        Group { row, prompt: vec![9; prompt], answers: vec![completion], annotations: None }
    }

    #[test]
    fn every_prompt_gets_the_next_rows_completion_within_the_bound() {
        let mut groups = [group(0, 2, &[1, 2]), group(1, 4, &[3]), group(2, 1, &[4, 5, 6])];
        groups[2].answers[0].scored = Some(vec![false, false, true]);
        add_mismatched(&mut groups, Some(6));
        let ids = |group: &Group| group.answer(Role::Mismatched).unwrap().ids.clone();
        assert_eq!(groups.each_ref().map(ids), [vec![3], vec![4, 5], vec![1, 2]]);
        assert_eq!(groups[1].answers[1].scored, None, "both scored tokens were cut off");
        add_mismatched(&mut groups[..1], None);
        assert_eq!(groups[0].answers.len(), 3, "a row alone is beside itself");
    }
}

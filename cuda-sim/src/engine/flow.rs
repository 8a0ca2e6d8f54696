//! Control flow: the order of basic blocks that makes threads of a warp meet again.
//!
//! The interpreter always runs the threads with the smallest program counter first. That reconverges a warp at the
//! earliest possible place if blocks lie in topological order with every loop in one piece before its exits, which is
//! Bourdoncle's weak topological order ("Efficient chaotic iteration strategies with widenings", 1993). The technique is
//! that of thread frontiers (Diamos et al., "SIMD re-convergence at thread frontiers", 2011).

use super::ir::{Class, Instruction, Operation};

/// Basic blocks over a list of instructions.
struct Graph {
    /// First instruction of every block, and the end of the last.
    starts: Vec<usize>,
    /// Successors by block; the fall-through, if any, is last.
    successors: Vec<Vec<usize>>,
    falls_through: Vec<bool>,
}

/// Puts the blocks in order and turns labels into instruction indices.
pub(crate) fn lay_out(mut code: Vec<Instruction>, labels: &[u32]) -> Vec<Instruction> {
    let graph = Graph::new(&code, labels);
    let order = graph.order();
    let block_of = |label: u32| graph.block_at(labels[label as usize] as usize);
    let mut blocks: Vec<Vec<Instruction>> = Vec::new();
    for &start in graph.starts[..graph.starts.len() - 1].iter().rev() {
        blocks.push(code.split_off(start));
    }
    blocks.reverse();
    let mut result = Vec::new();
    let mut placed = vec![0u32; blocks.len()];
    for (position, &block) in order.iter().enumerate() {
        placed[block] = result.len() as u32;
        let last =
            blocks[block].last().map_or((0, (0, 0)), |instruction| (instruction.line, instruction.source));
        result.append(&mut blocks[block]);
        if graph.falls_through[block] && order.get(position + 1) != Some(&(block + 1)) {
            // Only blocks have numbers here; the marker is turned into an instruction index below.
            let operation = Operation::BranchIndexed {
                index: super::registers::Source::Immediate(u64::MAX),
                targets: vec![block as u32 + 1],
            };
            result.push(Instruction {
                guard: None,
                operation,
                class: Class::Control,
                line: last.0,
                source: last.1,
            });
        }
    }
    for instruction in &mut result {
        match &mut instruction.operation {
            Operation::Branch(target) => *target = placed[block_of(*target)],
            Operation::BranchIndexed { index, targets }
                if *index == super::registers::Source::Immediate(u64::MAX) =>
            {
                instruction.operation = Operation::Branch(placed[targets[0] as usize]);
            }
            Operation::BranchIndexed { targets, .. } => {
                for target in targets {
                    *target = placed[block_of(*target)];
                }
            }
            _ => {}
        }
    }
    result
}

impl Graph {
    fn new(code: &[Instruction], labels: &[u32]) -> Graph {
        let mut is_start = vec![false; code.len() + 1];
        is_start[0] = true;
        for &label in labels {
            is_start[(label as usize).min(code.len() - 1)] = true;
        }
        for (index, instruction) in code.iter().enumerate() {
            if ends_block(instruction) {
                is_start[index + 1] = true;
            }
        }
        let mut starts: Vec<usize> = (0..code.len()).filter(|index| is_start[*index]).collect();
        starts.push(code.len());
        let blocks = starts.len() - 1;
        let mut graph =
            Graph { starts, successors: vec![Vec::new(); blocks], falls_through: vec![false; blocks] };
        for block in 0..blocks {
            let last = &code[graph.starts[block + 1] - 1];
            let targets: Vec<usize> = match &last.operation {
                Operation::Branch(label) => vec![graph.block_at(labels[*label as usize] as usize)],
                Operation::BranchIndexed { targets, .. } => {
                    targets.iter().map(|label| graph.block_at(labels[*label as usize] as usize)).collect()
                }
                _ => Vec::new(),
            };
            let never_falls = ends_block(last) && last.guard.is_none();
            graph.successors[block] = targets;
            graph.falls_through[block] = !never_falls && block + 1 < blocks;
            if graph.falls_through[block] {
                graph.successors[block].push(block + 1);
            }
        }
        graph
    }

    fn block_at(&self, instruction: usize) -> usize {
        self.starts
            .partition_point(|start| *start <= instruction)
            .saturating_sub(1)
            .min(self.starts.len() - 2)
    }

    /// All blocks in weak topological order; unreachable ones last.
    fn order(&self) -> Vec<usize> {
        let blocks = self.successors.len();
        let mut order = Vec::with_capacity(blocks);
        let mut inside = vec![true; blocks];
        // Work list of subgraphs, each given by its entry and its blocks; a component's head is already placed.
        let mut pending = vec![Part::Graph { entry: 0, blocks: (0..blocks).collect() }];
        while let Some(part) = pending.pop() {
            match part {
                Part::Block(block) => order.push(block),
                Part::Graph { entry, blocks } => {
                    inside.iter_mut().for_each(|flag| *flag = false);
                    blocks.iter().for_each(|block| inside[*block] = true);
                    let components = self.components(entry, &blocks, &inside);
                    // `components` is in reverse topological order, and the stack takes the last first.
                    for component in components {
                        pending.extend(self.expand(component));
                    }
                }
            }
        }
        order
    }

    /// A component as its head and what remains without it, in stack order.
    fn expand(&self, component: Component) -> Vec<Part> {
        let Component { head, mut blocks } = component;
        if blocks.len() == 1 {
            return vec![Part::Block(head)];
        }
        blocks.retain(|block| *block != head);
        let entry =
            self.successors[head].iter().copied().find(|next| blocks.contains(next)).unwrap_or(blocks[0]);
        vec![Part::Graph { entry, blocks }, Part::Block(head)]
    }

    /// Strongly connected components of a subgraph in reverse topological order (Tarjan, without recursion). The head of
    /// each is the block through which it was first entered.
    fn components(&self, entry: usize, blocks: &[usize], inside: &[bool]) -> Vec<Component> {
        let total = self.successors.len();
        let (mut index, mut low, mut on_stack) =
            (vec![0usize; total], vec![0usize; total], vec![false; total]);
        let (mut counter, mut stack, mut result) = (0, Vec::new(), Vec::new());
        let roots = std::iter::once(entry).chain(blocks.iter().copied());
        let mut unreachable = Vec::new();
        for (number, root) in roots.enumerate() {
            if index[root] != 0 {
                continue;
            }
            let mut calls = vec![(root, 0usize)];
            while let Some((block, edge)) = calls.pop() {
                if edge == 0 {
                    counter += 1;
                    index[block] = counter;
                    low[block] = counter;
                    stack.push(block);
                    on_stack[block] = true;
                }
                let mut descended = false;
                for (at, &next) in self.successors[block].iter().enumerate().skip(edge) {
                    if !inside[next] {
                        continue;
                    }
                    if index[next] == 0 {
                        calls.push((block, at + 1));
                        calls.push((next, 0));
                        descended = true;
                        break;
                    }
                    if on_stack[next] {
                        low[block] = low[block].min(index[next]);
                    }
                }
                if descended {
                    continue;
                }
                if low[block] == index[block] {
                    let at = stack.iter().rposition(|member| *member == block).unwrap_or(0);
                    let members = stack.split_off(at);
                    members.iter().for_each(|member| on_stack[*member] = false);
                    let component = Component { head: block, blocks: members };
                    if number == 0 { result.push(component) } else { unreachable.push(component) }
                }
                if let Some((parent, _)) = calls.last() {
                    low[*parent] = low[*parent].min(low[block]);
                }
            }
        }
        unreachable.extend(result);
        unreachable
    }
}

struct Component {
    head: usize,
    blocks: Vec<usize>,
}

enum Part {
    Block(usize),
    Graph { entry: usize, blocks: Vec<usize> },
}

fn ends_block(instruction: &Instruction) -> bool {
    matches!(
        instruction.operation,
        Operation::Branch(_)
            | Operation::BranchIndexed { .. }
            | Operation::Return
            | Operation::Exit
            | Operation::Trap(_)
    )
}

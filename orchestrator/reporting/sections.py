"""A report's content, derived from its figures: the verdict, then sections in the order in which a reader asks.

Each section is a pure function of the report, and is left out where the report lacks what it shows.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from orchestrator.reporting import by_class, charts, tables, verdict
from orchestrator.reporting.answers import answers
from orchestrator.reporting.by_class import name as class_name
from orchestrator.reporting.content import Block, Card, Cards, Code, Document, Guess, Picture, Row, Section, Table, Text
from orchestrator.reporting.report import COMPARED, FIGURED, SPECIALISTS, DifferingExample, Report, SoftTargets

LONG = 16
"""Rows of a table that is closed at first, where the form of the report allows it."""
SCORES = (
    "nll: negative log-likelihood of the label, in nats; ece: expected calibration error; of both less is better. p50, "
    "p99: latency of one example by one thread."
)
KINDS = {
    "lost": "The ensemble is right, the student wrong",
    "gained": "The student is right, the ensemble wrong",
    "divergent": "Both right or both wrong, with unlike probabilities",
}


def document(report: Report) -> Document:
    """The whole report."""
    found = (section(report) for section in SECTIONS)
    return Document(
        title=report.name,
        about=_about(report),
        notes=notes(report),
        lead=verdict.lead(tables.accuracies(report), report.accuracy_name),
        answers=answers(report),
        sections=[section for section in found if section is not None],
    )


def brief(report: Report) -> list[Section]:
    """The sections that say most, for a terminal."""
    return [section for each in BRIEF if (section := each(report)) is not None]


def notes(report: Report) -> list[str]:
    """What to know before all else: of the systems, and of members that the run lost."""
    lost = [f"Members lost on the way: {', '.join(report.lost_members)}."] if report.lost_members else []
    return [*report.notes, *lost]


def _about(report: Report) -> str:
    members = len(report.members)
    parts = [f"{members} member{'s' * (members != 1)}", f"{report.system('student').test.examples:,} test examples"]
    parts += [f"{report.classes:,} classes"] if report.classes else []
    return ", ".join([*parts, f"seed {report.seed}"])


def systems(report: Report) -> Section:
    figures = [charts.accuracies(report), *charts.differences(report)]
    own = tables.own_metrics(report)
    more: list[Block] = [Table(own, title="Further metrics")] if own else []
    return Section("Systems", [Table(tables.comparison(report)), Text(SCORES), *more, Row(figures)])


def beside_paper(report: Report) -> Section | None:
    if report.paper is None:
        return None
    return Section(f"Beside {report.paper.source}", [Table(tables.beside_paper(report))])


def differences(report: Report) -> Section | None:
    if not report.differences:
        return None
    return Section("How sure the differences are", [Table(tables.differences(report))])


def several_students(report: Report) -> Section | None:
    if not report.students:
        return None
    return Section("Students: accuracy against latency and size", [Table(tables.front(report))])


def generations(report: Report) -> Section | None:
    if not report.generations:
        return None
    return Section("Generations", [Table(tables.generations(report))])


def over_seeds(report: Report) -> Section | None:
    if not report.seeds:
        return None
    return Section(f"Over {len(report.seeds)} seeds", [Table(tables.over_seeds(report))])


def speed(report: Report) -> Section:
    """Latency and throughput; those of the members are alike and closed at first where they are many."""
    rows = tables.speed(report)
    return Section("Speed", [Table(rows, title="Each system", folded=True) if len(rows) > LONG else Table(rows)])


def worth(report: Report) -> Section:
    """What further members add; of a single member its figures alone."""
    each = Table(tables.each_member(report), folded=len(report.members) > 1, title="Each member")
    if len(report.members) == 1:
        return Section("What each further member was worth", [Text("The ensemble has one member."), each])
    curve = tables.members_curve(report)
    blocks: list[Block] = [charts.by_members(report)]
    if report.worth:
        blocks += [
            Text(order_of_members(report)),
            Table(tables.worth(report)),
        ]
    blocks += [
        Text(
            "Any k members: the mean over as many subsets as there are members (k consecutive members, cyclically)"
            f"{_without_weight(report.soft_targets)}."
        ),
        Table(curve, folded=bool(report.worth) or len(curve) > LONG, title="Any k members"),
        each,
    ]
    return Section("What each further member was worth", blocks)


def order_of_members(report: Report) -> str:
    """What `tables.worth` needs to be read: the order of its rows; and how far members differ."""
    return (
        "Members are ordered on the validation split: each next member is the one that improves the ensemble most, "
        "with equal weights. Accuracy, nll and ece are of all so far. Two members disagree on "
        f"{tables.percent(report.disagreement)} of the test examples."
    )


def specialists(report: Report) -> Section | None:
    """Which member tells which classes apart."""
    if not any(member.special for member in report.members):
        return None
    how = (
        "A specialist tells its own classes apart, and answers all others as one. It counts for an example whose "
        "likeliest class, by the generalists, is one of its own; the answer is the distribution of the least summed "
        "KL divergence from the generalists' and from each of these. Alone, as a member above, it gives all other "
        "classes equal probabilities. A choice of members without a generalist has the specialists' mean in its place."
    )
    return Section("Specialists", [Text(how), Table(tables.specialists(report))])


def _without_weight(soft: SoftTargets) -> str:
    """Names the members whose weight is 0, since a choice of these alone has no mean."""
    idle = [name for name, weight in soft.weights.items() if weight == 0]
    if soft.rule or not idle:
        return ""
    alone = "these" if len(idle) > 1 else "it"
    return f"; the weight of {', '.join(idle)} is 0, and choices of {alone} alone are left out"


def reliability(report: Report) -> Section:
    """Whether probabilities fit."""
    student = report.system("student")
    confidence = tables.mean_confidence(student)
    blocks: list[Block] = [Table(tables.calibration(report))]
    if confidence is not None:
        known = f"The student's mean confidence is {confidence:.1%}, {_beside(confidence, report)}."
        blocks = [Text(known), *blocks, charts.reliability(report)]
    return Section("Reliability", blocks)


def _beside(confidence: float, report: Report) -> str:
    """The student's mean confidence beside its accuracy. The interval of the calibration error begins at 0 where a
    calibrated network may have the same; of too few examples there is none."""
    test = report.system("student").test
    gap = confidence - test.accuracy
    points = f"{100 * abs(gap):.1f}"
    if points == "0.0":
        return "level with its accuracy"
    where, side = ("above", "over") if gap > 0 else ("below", "under")
    error = test.ece_interval
    if error is None and report.differences:
        return f"{points} points {where} its accuracy, not resolved at this test size"
    if error is not None and error[0] <= 0:
        return f"{points} points {where} its accuracy, as a calibrated network's may be"
    return f"{points} points {where} its accuracy: it is {side}confident"


def classes(report: Report) -> Section | None:
    confusions: dict[str, list[list[int]]] = {role: report.system(role).confusion for role in COMPARED}
    if not all(confusions.values()):
        return None
    confusions |= {each.name: each.confusion for each in report.systems if each.role == "further" and each.confusion}
    macro = ", ".join(f"{role} {tables.number('macro_f1', report.system(role).test.macro_f1)}" for role in COMPARED)
    rows = by_class.accuracy(report.labels, confusions)
    table = Table(rows, folded=len(rows) > LONG, title="How many of each class are right")
    return Section("Classes", [Text(f"Macro-F1: {macro}."), table])


def inherited(report: Report) -> Section | None:
    """Which errors the student has of the ensemble."""
    blocks: list[Block] = []
    if report.agreement is not None:
        blocks.append(Text(_of_errors(report)))
    confusions = {role: report.system(role).confusion for role in FIGURED}
    if all(confusions.values()):
        pairs = by_class.shared(report.labels, confusions)
        beside: list[Block] = [charts.shared_confusion(pairs)] if pairs else []
        rows = by_class.errors(report.labels, confusions, "student")
        if len(rows) > 1:
            beside.append(Table(rows, title="The student's most frequent errors, and how often the others make them"))
        blocks += [Row(beside)] if beside else []
    return Section("Confusion that the student inherited", blocks) if blocks else None


def _of_errors(report: Report) -> str:
    found = report.agreement
    assert found is not None
    ensemble = found.gained + found.wrong_alike + found.wrong_otherwise
    return (
        f"Of {ensemble:,} errors of the ensemble the student repeats {found.wrong_alike:,} with the same class and "
        f"{found.wrong_otherwise:,} with another, and corrects {found.gained:,}. It adds {found.lost:,} of its own."
    )


def examples(report: Report) -> Section | None:
    """Test examples of each kind."""
    of_kind = {kind: [each for each in report.examples if each.kind == kind] for kind in KINDS}
    blocks = [Cards(KINDS[kind], [_card(report, each) for each in of]) for kind, of in of_kind.items() if of]
    if not blocks:
        return None
    return Section(
        "Where student and ensemble differ",
        [Text("Test examples of each kind on which their probabilities differ most."), *blocks],
    )


def _card(report: Report, of: DifferingExample) -> Card:
    where = "" if of.position is None else f", position {of.position:,}"

    def guess(system: str, found: Sequence[tuple[int, float]]) -> Guess:
        named = [(class_name(report.labels, k), f"{probability:.1%}") for k, probability in found]
        return Guess(system, right=bool(found) and found[0][0] == of.label, classes=named)

    return Card(
        name=f"example {of.example}{where}",
        label=class_name(report.labels, of.label),
        guesses=[guess("ensemble", of.ensemble), guess("student", of.student)],
        text=of.text,
        image=of.image,
        values=", ".join(f"{value:g}" for value in of.values),
    )


def drawn(report: Report) -> Section | None:
    """The user's own figures."""
    if not report.figures:
        return None
    return Section("Figures", [Picture(each.title, each.image) for each in report.figures])


def training(report: Report) -> Section | None:
    """Curves by epoch, and their ends as numbers."""
    curves, ends = charts.training(report), tables.training(report)
    found: list[Block] = [Row(curves)] if curves else []
    found += [Table(ends)] if ends else []
    return Section("Training", found) if found else None


def costs(report: Report) -> Section:
    """Seconds by stage, planned ones beside them where there are, and what they cost."""
    soft = report.soft_targets
    made = "reused" if soft.reused else f"{soft.seconds:.1f} s"
    return Section(
        "How it went and what it cost",
        [
            Text(
                f"{soft.examples:,} soft targets at {soft.schedule or f'T = {soft.temperature:g}'}, {_mean(soft)}, "
                f"{soft.bytes / 1e6:.1f} MB, {made}{_planned(soft)}; the run was bound by the {report.bound_by}."
            ),
            Text(tables.cost(report)),
            Row([Table(tables.stages(report)), *([Table(tables.spent(report))] if report.cost else [])]),
        ],
    )


def _planned(soft: SoftTargets) -> str:
    if soft.planned is None:
        return ""
    planned = [] if soft.planned.bytes is None else [f"{soft.planned.bytes / 1e6:.1f} MB"]
    planned += [] if soft.planned.seconds is None else [f"{soft.planned.seconds:.1f} s"]
    return f" (planned: {', '.join(planned)})" if planned else ""


def _mean(soft: SoftTargets) -> str:
    """The rule of the mean in words, with weights that differ."""
    if soft.rule and soft.rule != SPECIALISTS:
        return f"{soft.joined}, weights of each example by {soft.rule}"
    if soft.rule or len(set(soft.weights.values())) < 2:
        return soft.joined
    listed = ", ".join(f"{name} {weight:.3g}" for name, weight in soft.weights.items())
    return f"{soft.joined} with the weights {listed}"


def again(report: Report) -> Section | None:
    """Commands that run it again and print it again, and what it follows from."""
    origin = report.origin
    if not report.folder:
        return None
    folder = shlex.quote(report.folder)
    typed = origin.command if origin is not None else ""
    command = typed or f"stillhouse run {shlex.quote(f'{report.folder}/config.yaml')}"
    blocks: list[Block] = [
        Text("The same command reuses what is complete; with --fresh it computes everything again."),
        Code(f"{command}\nstillhouse report {folder} --format html > report.html"),
    ]
    if origin is not None:
        digests = {f"data, {name}": digest for name, digest in origin.data.items()}
        digests |= {f"code, {name}": digest for name, digest in origin.code.items()}
        rows = [["of", "version or digest"], *([name, value] for name, value in (origin.versions | digests).items())]
        blocks += [Table(rows, title="Versions, and digests of data and code", folded=True)]
        blocks += [Code(origin.config, title="The resolved configuration", folded=True)] if origin.config else []
    return Section("How to run it again", blocks)


SECTIONS: tuple[Callable[[Report], Section | None], ...] = (
    systems, differences, several_students, generations, over_seeds, beside_paper, speed, worth, specialists,
    reliability, classes, inherited, examples, drawn, training, costs, again,
)  # fmt: skip
"""In the order in which a reader asks."""
BRIEF: tuple[Callable[[Report], Section | None], ...] = (
    systems, differences, several_students, generations, over_seeds, beside_paper,
)  # fmt: skip

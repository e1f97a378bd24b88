"""Selectors of labels (LabelSelector of meta/v1); equal ones become equal values."""

from policy.fields import Fields, check_label_key, check_label_value, wrong
from policy.objects import DOES_NOT_EXIST, EXISTS, IN, NOT_IN, Requirement, Selector

_WITH_VALUES, _WITHOUT = (IN, NOT_IN), (EXISTS, DOES_NOT_EXIST)


def read_selector(value: object, path: str) -> Selector:
    """The selector at a path of a document. Raises ValueError."""
    fields = Fields(value, path).only("matchLabels", "matchExpressions")
    found = set()
    if fields.get("matchLabels") is not None:
        where = fields.path_of("matchLabels")
        labels = Fields(fields.get("matchLabels"), where)
        for key in fields.get("matchLabels"):
            check_label_key(key, where)
            found.add(Requirement(key, IN, (check_label_value(labels.get(key), f"{where}[{key}]"),)))
    found.update(_requirement(Fields(each, where)) for where, each in fields.list("matchExpressions"))
    return Selector(tuple(sorted(found, key=lambda one: (one.key, one.operator, one.values))))


def _requirement(fields: Fields) -> Requirement:
    fields.only("key", "operator", "values")
    key = check_label_key(fields.get("key"), fields.path_of("key"))
    operator = fields.text("operator", choices=(*_WITH_VALUES, *_WITHOUT))
    values = {check_label_value(each, where) for where, each in fields.list("values")}
    if bool(values) != (operator in _WITH_VALUES):
        expected = f'{"at least one value" if operator in _WITH_VALUES else "none"} with "{operator}"'
        raise wrong(fields.path_of("values"), expected, fields.get("values"))
    return Requirement(key, operator, tuple(sorted(values)))

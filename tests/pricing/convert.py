#!/usr/bin/env python3
"""Turn Pricing2Yaml files into catalog documents and the answers they must give.

    convert.py DIRECTORY_OF_YAML_FILES [OUTPUT_DIRECTORY]

For each `<name>.yml` two files are written (next to this script unless told otherwise):

  <name>.catalog.json  the pricing as a catalog document
  <name>.cells.json    what an account must be answered: one object a cell,
                       {"plan", "addons", "quantity"?, "feature", "kind", "expect"}

The cells are read straight from the YAML by `cells_of`, which shares with the conversion only the loading and
the spelling of keys: a fault in the conversion shows as a cell that answers otherwise.

Only facts are taken over: names, values, units. Prices and descriptions are left out, they entitle nobody to
anything. The committed files come from models of eight pricings of November and December 2023, published under
the MIT licence, Copyright (c) 2023 ISA Group.

How the pricing's words become ours:

  BOOLEAN feature or limit      flag
  TEXT feature or limit         config, a string out of those that the pricing states
  TEXT list (PAYMENT)           config, an array out of the entries that the pricing states
  RENEWABLE limit               quota; the period is the last part of the unit (`minute/month`)
  RESPONSE_DRIVEN limit         quota, without a period if the unit names none: what a call costs is known once
                                it has answered, and what is spent does not come back
  NON_RENEWABLE limit           allocation
  TIME_DRIVEN limit             config, a number: it bounds how long one operation may take. Nothing is counted
                                from one operation to the next, so there is no usage to meter
  `.inf`                        "unlimited"
  add-on: features, limits      the add-on's own values; `false` takes nothing away, flags combine by OR
  add-on: limit extensions      amounts that add to the plan's

What the pricings state in other ways, and what is made of it:

  - An empty text, "Not Included", or `null` for a limit says that the plan lacks it. The catalog leaves it out,
    the cell expects null: not granted, no value, nothing allowed. It is never read as "no limit".
  - A limit of an add-on (not an extension) replaces the plan's. Adding gives the same only where the plan has
    nothing of it, or the add-on is unlimited; anything else is refused.
  - A plan may give a limit a unit of its own (`rule/user/month` for `rule/month`): the amount counts per unit of
    the subscription's quantity. A cell with quantity 3 checks it.
  - A feature indented into another feature's value is lifted to where it belongs.
  - `availableFor` decides which cells an add-on has. The catalog does not restrict who may hold an add-on: what
    is sold to whom is the shop's decision, what is held is answered for.
  - Anything else unknown (expressions, dependencies, exclusions) stops the conversion.
"""

import json
import math
import re
import sys
from pathlib import Path

import yaml

PRICING = {"saasName", "day", "month", "year", "currency", "hasAnnualPayment", "features", "usageLimits", "plans", "addOns"}
FEATURE = {"description", "valueType", "defaultValue", "type", "automationType", "integrationType",
           "pricingUrls", "pricingsUrls", "docUrl", "docURL"}
LIMIT = {"description", "valueType", "defaultValue", "unit", "type", "linkedFeatures"}
PLAN = {"description", "monthlyPrice", "annualPrice", "unit", "features", "usageLimits"}
ADDON = PLAN | {"availableFor", "price", "usageLimitsExtensions"}

PERIODS = {"second", "minute", "hour", "day", "week", "month", "year"}
LACKING = ("", "Not Included")

# Words that the pricings misspell in names.
SPELLING = {"alter": "alert", "assigment": "assignment", "bandwith": "bandwidth", "codepaces": "codespaces",
            "compilance": "compliance", "customen": "customer", "desings": "designs", "embedable": "embeddable",
            "enviroment": "environment", "fined": "fine", "maximun": "maximum", "puglin": "plugin"}


class Unrepresentable(Exception):
    """The pricing states something that this conversion does not know how to keep."""


def key(name):
    """`copilotHTTPProxySupport` -> `copilot_http_proxy_support`; the signs + & % become words."""
    for sign, word in (("+", " Plus "), ("&", " And "), ("%", " Percent ")):
        name = name.replace(sign, word)
    words = re.findall(r"\d+[A-Z]+(?![a-z])|\d+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return "_".join(SPELLING.get(word.lower(), word.lower()) for word in words)


# Loading: the YAML with its gaps closed (null mappings) and its misplaced features lifted. Nothing is interpreted.

def known(members, allowed, place):
    unknown = sorted(set(members) - allowed)
    if unknown:
        raise Unrepresentable(f"{place}: unknown members {', '.join(unknown)}")


def stated(cells, names, place):
    """{name: {"value", "unit"?}} of a plan or add-on, every name known to the pricing."""
    result = {}
    for name, cell in (cells or {}).items():
        for member in [member for member in cell if member in names]:
            result[member] = cell.pop(member)
        known(cell, {"value", "unit"}, f"{place}.{name}")
        result[name] = cell
    known(result, set(names), place)
    return result


def load(path):
    pricing = yaml.safe_load(path.read_text(encoding="utf-8"))
    known(pricing, PRICING, path.stem)
    for part, allowed in (("features", FEATURE), ("usageLimits", LIMIT), ("plans", PLAN), ("addOns", ADDON)):
        pricing[part] = pricing[part] or {}
        for name, members in pricing[part].items():
            known(members, allowed, f"{path.stem}.{part}.{name}")
    features, limits = pricing["features"], pricing["usageLimits"]
    for name, holder in [*pricing["plans"].items(), *pricing["addOns"].items()]:
        place = f"{path.stem}.{name}"
        holder["features"] = stated(holder["features"], features, place)
        holder["usageLimits"] = stated(holder["usageLimits"], limits, place)
        holder["usageLimitsExtensions"] = stated(holder.get("usageLimitsExtensions"), limits, place)
    names = [key(name) for name in [*features, *limits]]
    holders = [key(name) for name in [*map(str.lower, pricing["plans"]), *pricing["addOns"]]]
    for taken in (names, holders):
        if len(taken) != len(set(taken)):
            raise Unrepresentable(f"{path.stem}: two names become the same key")
    return pricing


# The conversion.

def lacks(value):
    return value is None or value in LACKING


def amount(value):
    if value == math.inf:
        return "unlimited"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise Unrepresentable(f"{value!r} is no amount")
    return value


def values_of(pricing, part, name):
    """All values that the pricing states for a feature or limit."""
    values = [pricing[part][name]["defaultValue"]]
    values += [holder[part][name]["value"]
               for holder in [*pricing["plans"].values(), *pricing["addOns"].values()] if name in holder[part]]
    return [value for value in values if not lacks(value)]


def without_repeats(values):
    return list(dict.fromkeys(values))


def text_schema(values):
    lists = [value for value in values if isinstance(value, list)]
    if not lists:
        return {"enum": without_repeats(values)}
    if len(lists) != len(values):
        raise Unrepresentable("a text is a list in one plan and not in another")
    entries = without_repeats(entry for value in lists for entry in value)
    return {"type": "array", "items": {"enum": entries}, "minItems": 1, "uniqueItems": True}


def unit_and_period(unit):
    """`minute/month` -> ("minute", "1 month"); `GB` -> ("GB", None)."""
    head, slash, last = unit.rpartition("/")
    return (head, f"1 {last}") if slash and last in PERIODS else (unit, None)


def feature_document(pricing, part, name):
    stated_as = pricing[part][name]
    value_type, limit_type = stated_as["valueType"], stated_as["type"] if part == "usageLimits" else None
    if value_type == "BOOLEAN":
        return {"kind": "flag"}
    if value_type == "TEXT":
        return {"kind": "config", "schema": text_schema(values_of(pricing, part, name))}
    if value_type != "NUMERIC" or limit_type is None:
        raise Unrepresentable(f"{name}: value type {value_type} in {part}")
    unit, period = unit_and_period(stated_as["unit"])
    if limit_type == "TIME_DRIVEN":
        return {"kind": "config", "schema": {"type": "number", "exclusiveMinimum": 0}}
    if limit_type == "NON_RENEWABLE":
        return {"kind": "allocation", "unit": stated_as["unit"]}
    if limit_type == "RENEWABLE" and period is None:
        raise Unrepresentable(f"{name}: renewable, but its unit {unit!r} names no period")
    if limit_type in ("RENEWABLE", "RESPONSE_DRIVEN"):
        return {"kind": "quota", "unit": unit, **({"period": period, "anchor": "calendar"} if period else {})}
    raise Unrepresentable(f"{name}: limit type {limit_type}")


def per_unit(limit, cell):
    """Whether a plan counts a limit per unit of quantity: its own unit has one part more than the limit's."""
    if cell.get("unit", limit.get("unit")) == limit.get("unit"):
        return False
    (own, own_period), (general, period) = unit_and_period(cell["unit"]), unit_and_period(limit["unit"])
    if own == f"{general}/user" and own_period == period:
        return True
    raise Unrepresentable(f"unit {cell['unit']!r} for {limit['unit']!r}")


def value_document(feature, value):
    return value if feature["kind"] in ("flag", "config") else amount(value)


def plan_document(pricing, features, plan):
    values = {}
    for part in ("features", "usageLimits"):
        for name, stated_as in pricing[part].items():
            cell = plan[part].get(name, {"value": stated_as["defaultValue"]})
            if lacks(cell["value"]):
                continue
            value = value_document(features[key(name)], cell["value"])
            if part == "usageLimits" and per_unit(stated_as, cell):
                value = {"amount": value, "per_unit": True}
            values[key(name)] = value
    return values


def addon_document(pricing, features, name, addon):
    values = {}
    for part in ("features", "usageLimits"):
        for member, cell in addon[part].items():
            if features[key(member)]["kind"] == "config":
                raise Unrepresentable(f"{name}: which of two values of {member} holds is a matter of rank")
            value = value_document(features[key(member)], cell["value"])
            if features[key(member)]["kind"] in ("quota", "allocation") and value != "unlimited":
                for plan in addon["availableFor"]:
                    base = pricing["plans"][plan][part].get(member, {"value": pricing[part][member]["defaultValue"]})
                    if base["value"]:
                        raise Unrepresentable(f"{name}: {member} would replace what {plan} has, and can only add to it")
            values[key(member)] = value
    for member, cell in addon["usageLimitsExtensions"].items():
        if features[key(member)]["kind"] not in ("quota", "allocation") or key(member) in values:
            raise Unrepresentable(f"{name}: {member} cannot be extended")
        values[key(member)] = amount(cell["value"])
    return values


def catalog_of(pricing):
    features = {key(name): feature_document(pricing, part, name)
                for part in ("features", "usageLimits") for name in pricing[part]}
    plans = {}
    for position, (name, plan) in enumerate(pricing["plans"].items()):
        plans[key(name.lower())] = {"kind": "base", "rank": 10 * position,
                                    "features": plan_document(pricing, features, plan)}
    for name, addon in pricing["addOns"].items():
        plans[key(name)] = {"kind": "addon", "features": addon_document(pricing, features, name, addon)}
    return {"features": features, "plans": plans}


# The expectation: what the pricing says, looked up cell by cell.

def said(value):
    if value == math.inf:
        return "unlimited"
    return None if value in ("", "Not Included", None) else value


def cells_of(pricing):
    kinds = {"BOOLEAN": "flag", "TEXT": "config", "RENEWABLE": "quota", "RESPONSE_DRIVEN": "quota",
             "NON_RENEWABLE": "allocation", "TIME_DRIVEN": "config"}
    cells = []

    def cell(plan, addons, name, kind, expect, **more):
        cells.append({"plan": key(plan.lower()), "addons": [key(addon) for addon in addons], **more,
                      "feature": key(name), "kind": kind, "expect": expect})

    for plan_name, plan in pricing["plans"].items():
        holds = {}
        for part in ("features", "usageLimits"):
            for name, default in pricing[part].items():
                kind = kinds[default["type"] if default["valueType"] == "NUMERIC" else default["valueType"]]
                own = plan[part].get(name)
                value = said(own["value"] if own else default["defaultValue"])
                holds[name] = (kind, value)
                cell(plan_name, [], name, kind, value)
                if own and "/user" in own.get("unit", ""):
                    cell(plan_name, [], name, kind, 3 * value, quantity=3)
        for addon_name, addon in pricing["addOns"].items():
            if plan_name not in addon["availableFor"]:
                continue
            for name, own in addon["features"].items():
                kind, value = holds[name]
                cell(plan_name, [addon_name], name, kind, value or own["value"])
            for name, own in addon["usageLimits"].items():
                cell(plan_name, [addon_name], name, holds[name][0], said(own["value"]))
            for name, more in addon["usageLimitsExtensions"].items():
                kind, value = holds[name]
                cell(plan_name, [addon_name], name, kind,
                     value if value == "unlimited" else (value or 0) + more["value"])
    return cells


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__.split("\n\n")[1].strip())
    target = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent
    for path in sorted(Path(sys.argv[1]).glob("*.yml")):
        pricing = load(path)
        catalog, cells = catalog_of(pricing), cells_of(pricing)
        (target / f"{path.stem}.catalog.json").write_text(
            json.dumps(catalog, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        lines = ",\n".join(json.dumps(cell, ensure_ascii=False, allow_nan=False) for cell in cells)
        (target / f"{path.stem}.cells.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        print(f"{path.stem}: {len(catalog['features'])} features, {len(catalog['plans'])} plans, {len(cells)} cells")


if __name__ == "__main__":
    main()

"""Holds what Grafana provisions from deploy/monitoring/grafana against the keys that it documents, and the dashboard against
the data source."""

import json
import sys
from pathlib import Path

import yaml

SOURCE = {"name", "uid", "type", "access", "url", "isDefault", "jsonData", "editable"}
PROVIDER = {"name", "folder", "type", "options", "updateIntervalSeconds", "disableDeletion", "allowUiUpdates"}

directory = Path(sys.argv[1])
dashboard = json.loads((directory / "pointsman.json").read_text())
provisioning = {path.parent.name: yaml.safe_load(path.read_text()) for path in directory.glob("provisioning/*/*.yml")}
assert provisioning.keys() == {"datasources", "dashboards"}, provisioning.keys()
assert all(document["apiVersion"] == 1 for document in provisioning.values())

(source,) = provisioning["datasources"]["datasources"]
assert source.keys() <= SOURCE and {"name", "type", "url"} <= source.keys(), source
(provider,) = provisioning["dashboards"]["providers"]
assert provider.keys() <= PROVIDER and provider["type"] == "file", provider
# Where the README says that the dashboard goes.
readme = (directory.parent / "README.md").read_text()
assert f"`{provider['options']['path']}`" in readme, provider

# The dashboard is shown with the data source that is there, whatever that is called.
(variable,) = [v for v in dashboard["templating"]["list"] if v["type"] == "datasource"]
assert variable["query"] == source["type"] == "prometheus" and source["isDefault"]
for panel in dashboard["panels"]:
    used = panel.get("datasource")
    assert panel["type"] == "row" or used == {"type": "prometheus", "uid": "${" + variable["name"] + "}"}, panel["title"]

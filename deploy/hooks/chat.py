#!/usr/bin/python3
"""Posts what pointsman tells to a chat's incoming webhook (Slack, Mattermost, Rocket.Chat): chat.py URL_FILE

URL_FILE holds the URL of the webhook on its only line. Whoever knows it can write to the chat, so only the user that
pointsman runs as should be able to read it. Nothing here prints it.

    [[hook]]
    name = "chat"
    exec = ["/usr/local/lib/pointsman/chat.py", "/etc/pointsman/chat.url"]
    timeout = "10s"

Exit codes: 0 posted; 1 not posted, and pointsman tries again; 2 wrong usage.
"""

import http.client
import json
import sys
import urllib.error
import urllib.request

# Less than `timeout` of the hook, so that what was wrong is said here.
TIMEOUT_SECONDS = 8

MARKS = {
    "failover_begun": ":hourglass:",
    "failover_committed": ":white_check_mark:",
    "failover_finished": ":white_check_mark:",
    "failover_rolled_back": ":rotating_light:",
    "loss_known": ":rotating_light:",
    "hold_too_long": ":rotating_light:",
    "hold_ended": ":white_check_mark:",
    "master_restarted": ":rotating_light:",
    "sentinel_quorum_lost": ":warning:",
    "sentinel_quorum_regained": ":white_check_mark:",
}


class NoRedirection(urllib.request.HTTPRedirectHandler):
    """A webhook that moved is a mistake, and its URL is a secret."""

    def redirect_request(self, *arguments):
        return None


def message(told):
    """One line, and for a failover a second one with what it cost."""
    # What these chats take for markup.
    text = told["text"].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    lines = ["{} {} ({})".format(MARKS.get(told["event"], ":information_source:"), text, told["instance"])]
    failover = told.get("failover")
    if told["event"] == "failover_finished" and failover:
        lost = failover["lost_bytes"]
        most = "an unknown number of" if lost["at_most"] is None else lost["at_most"]
        lines.append(
            "failover {}: writes waited {} ms, {} commands refused, {} of unknown outcome; {} to {} bytes lost".format(
                failover["number"],
                failover["writes_held_ms"],
                failover["commands"]["refused"],
                failover["commands"]["unknown"],
                lost["at_least"],
                most,
            )
        )
    return {"username": "pointsman", "text": "\n".join(lines)}


def main():
    if len(sys.argv) != 2:
        print("usage: chat.py URL_FILE", file=sys.stderr)
        return 2
    told = json.load(sys.stdin)
    try:
        with open(sys.argv[1], encoding="ascii") as file:
            url = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        print("{}: {}".format(sys.argv[1], error.__class__.__name__), file=sys.stderr)
        return 2
    if len(url.split()) != 1 or not url.startswith(("http://", "https://")):
        print("{}: expected one line with a URL".format(sys.argv[1]), file=sys.stderr)
        return 2
    body = json.dumps(message(told)).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(NoRedirection)
        with opener.open(request, timeout=TIMEOUT_SECONDS):
            return 0
    except urllib.error.HTTPError as error:
        print("the chat answered {}".format(error.code), file=sys.stderr)
    except urllib.error.URLError as error:
        print("the chat cannot be reached: {}".format(error.reason), file=sys.stderr)
    except (OSError, ValueError, http.client.HTTPException) as error:
        print("the chat cannot be reached: {}".format(error.__class__.__name__), file=sys.stderr)
    return 1


if __name__ == "__main__":
    code = main()
    sys.exit(code)

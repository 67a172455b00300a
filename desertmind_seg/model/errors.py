"""The root of all errors whose message is meant for the person at the keyboard."""


class DesertmindError(Exception):
    """What is wrong, the value, what was expected and how to mend it, in one message.

    Commands print it as one line; everything else that is raised is an error of ours.
    """

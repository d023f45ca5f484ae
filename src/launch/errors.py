"""The one exception for faults that the user can mend."""


class InputError(Exception):
    """Something the user gave is wrong; the message says what was got, what is needed and what to type.

    ``src.run`` prints the message without a traceback; every other exception is a defect of this project and keeps its
    traceback.
    """

"""What a person does to work of any kind: seeing what is owed, moving lanes, dead rows.

It knows kinds of work and what services say of theirs (`work.care`), but no service.
"""

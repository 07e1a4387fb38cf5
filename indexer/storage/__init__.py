"""Tables in Lance and control files on disks and object stores. The only package that imports Lance and obstore."""

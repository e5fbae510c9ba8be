from gureum.dns import private_domain, private_name, public_domain, public_name


def test_names_as_in_ec2() -> None:
    assert private_domain("us-east-1") == "ec2.internal"
    assert private_domain("eu-west-1") == "eu-west-1.compute.internal"
    assert private_name("172.31.0.4", "ec2.internal") == "ip-172-31-0-4.ec2.internal"
    assert public_name("198.18.0.7", "us-east-1") == "ec2-198-18-0-7.compute-1.amazonaws.com"
    assert public_name("198.18.0.7", "eu-west-1") == "ec2-198-18-0-7.eu-west-1.compute.amazonaws.com"


def test_public_names_live_beside_the_private_ones() -> None:
    assert public_domain("ec2.internal") == "compute-1.amazonaws.com"
    assert public_domain("eu-west-1.compute.internal") == "eu-west-1.compute.amazonaws.com"


def test_no_address_has_no_name() -> None:
    assert private_name("", "ec2.internal") == ""
    assert public_name("", "us-east-1") == ""

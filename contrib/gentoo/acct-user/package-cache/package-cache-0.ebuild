# Distributed under the terms of the GNU General Public License v3 or later

EAPI=8

inherit acct-user

DESCRIPTION="User for net-proxy/package-cache"

ACCT_USER_ID=-1
ACCT_USER_GROUPS=( package-cache )
ACCT_USER_HOME=/var/cache/package-cache
ACCT_USER_HOME_PERMS=0755

acct-user_add_deps
